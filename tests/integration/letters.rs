//! Writing to users: over the network, from session to session, to who is away, to groups, by the calls of existing front
//! ends. The cases run against each broker.

use serde_json::{Value, json};

use warren::config::Config;
use warren::message::now_unix_ms;
use warren::users::Unread;

use crate::contract::contract;
use crate::support::client::Client;
use crate::support::events::{Event, EventStream};
use crate::support::http::{Answer, request};
use crate::support::identity::{token_of, with_tokens};
use crate::support::instance::{Carrier, Instance};
use crate::support::json::JsonClient;
use crate::support::post::{JSON, post};
use crate::support::process::Directory;
use crate::support::raw::Raw;
use crate::support::{eventually, within_deadline};

contract! {
    alice_and_bob_write_to_each_other_across_instances
    who_is_away_receives_what_was_missed_in_order_and_once
    phone_and_laptop_both_receive
    a_plain_session_shows_by_its_pong_that_it_has_a_message
    the_teacher_writes_to_the_class
    what_is_for_who_is_connected_is_kept_nowhere
    existing_front_ends_send_and_pull
    two_calls_at_once_take_all_that_each_wants
    who_may_not_send_is_told
    what_was_missed_waits_to_be_asked_for
    an_event_stream_hears_what_another_session_acknowledges
    what_is_not_acknowledged_passes_to_another_instance
}

async fn an_event_stream_hears_what_another_session_acknowledges(carrier: Carrier) {
    let [here, there] = two(&carrier).await;
    let of_class = token_of("carol", &json!({"groups": ["class"]}));
    let bearer = format!("Bearer {of_class}");
    let connection = Raw::tcp(there.address).await;
    let headers = [("Authorization", &*bearer)];
    let mut events = EventStream::open_with(connection, there.address, "topic=orders", &headers).await;
    let mut alice = json_session(&here, "alice").await;
    let told =
        |event: Event| -> (Option<String>, Value) { (event.id, serde_json::from_str(&event.data).expect("JSON")) };
    // What is kept nowhere it is given in any case, as soon as it is known to be there.
    let only_now = json!({"type": "send", "user": "carol", "text": "is typing", "keep": false});
    within_deadline("carol is known", async { while alice.answer(only_now.clone()).await["type"] != "ack" {} }).await;
    assert_eq!(told(events.next().await.expect("an event")).1["text"], "is typing");
    // What is kept waits for somebody who can show that it was read; the stream's token has made its user a member, too.
    write(&mut alice, "carol", "to carol").await;
    let answer = alice.answer(json!({"type": "send", "group": "class", "text": "to the class"})).await;
    assert_eq!(answer["type"], "ack", "{answer}");
    let mut carol = json_session(&here, "carol").await;
    for text in ["to carol", "to the class"] {
        assert_eq!(read(&mut carol).await["text"], text);
        let (id, message) = told(events.next().await.expect("an event"));
        assert_eq!((id, &message["text"], &message["user"]), (None, &json!(text), &json!("carol")));
    }
}

/// Two instances that know tokens.
async fn two(carrier: &Carrier) -> [Instance; 2] {
    two_with(carrier, |_| {}).await
}

async fn two_with(carrier: &Carrier, change: impl Fn(&mut Config)) -> [Instance; 2] {
    let directory = Directory::new("letters");
    let [one, two] = [0, 1].map(|_| {
        let mut config = with_tokens(&directory);
        change(&mut config);
        carrier.instance_with(config)
    });
    let instances = [one.await, two.await];
    // They have read their keys by then.
    instances[0].ready().await;
    instances[1].ready().await;
    instances
}

/// A token with which its user may write to others.
fn token(user: &str) -> String {
    token_of(user, &json!({"roles": ["send", "groups"]}))
}

async fn json_session(instance: &Instance, user: &str) -> JsonClient {
    JsonClient::connect_with(instance.address, &[&token(user)]).await
}

/// Writes in the name of a session's user, and waits until it is kept.
async fn write(session: &mut JsonClient, to: &str, text: &str) {
    let answer = session.answer(json!({"type": "send", "user": to, "text": text})).await;
    assert!(answer["type"] == "ack" && answer["message_id"].is_string(), "{answer}");
}

/// The next message, which it acknowledges.
async fn read(session: &mut JsonClient) -> Value {
    let message = session.message().await;
    session.client.send(json!({"type": "acknowledge", "message_id": message["id"]}).to_string()).await;
    message
}

async fn post_as(instance: &Instance, user: &str, path: &str, body: Value) -> Answer {
    let bearer = format!("Bearer {}", token(user));
    post(instance.address, path, &[JSON, ("Authorization", &bearer)], body.to_string()).await
}

async fn post_form(instance: &Instance, user: &str, path: &str, form: &str) -> Answer {
    let bearer = format!("Bearer {}", token(user));
    let kind = ("Content-Type", "application/x-www-form-urlencoded");
    post(instance.address, path, &[kind, ("Authorization", &bearer)], form).await
}

async fn alice_and_bob_write_to_each_other_across_instances(carrier: Carrier) {
    let [one, two] = two(&carrier).await;
    let (mut alice, mut bob) = (json_session(&one, "alice").await, json_session(&two, "bob").await);
    write(&mut alice, "bob", "hello").await;
    let heard = read(&mut bob).await;
    assert_eq!((&heard["from"], &heard["user"], &heard["text"]), (&json!("alice"), &json!("bob"), &json!("hello")));
    write(&mut bob, "alice", "hello yourself").await;
    assert_eq!(read(&mut alice).await["text"], "hello yourself");
    // And to oneself, on the other instance, too.
    write(&mut alice, "alice", "a note").await;
    assert_eq!(read(&mut alice).await["text"], "a note");
}

async fn who_is_away_receives_what_was_missed_in_order_and_once(carrier: Carrier) {
    let [one, two] = two(&carrier).await;
    let mut alice = json_session(&one, "alice").await;
    for number in 0..10 {
        write(&mut alice, "carol", &number.to_string()).await;
    }
    let answer = post_as(&two, "alice", "/api/users/carol/messages", json!({"text": "10"})).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let mut carol = json_session(&two, "carol").await;
    for number in 0..=10 {
        assert_eq!(read(&mut carol).await["text"], json!(number.to_string()));
    }
    // Live, behind it.
    write(&mut alice, "carol", "11").await;
    assert_eq!(read(&mut carol).await["text"], "11");
    // What was acknowledged does not come again, on whichever instance.
    carol.answer(json!({"type": "ping"})).await;
    drop(carol);
    write(&mut alice, "carol", "12").await;
    let mut carol = json_session(&one, "carol").await;
    assert_eq!(read(&mut carol).await["text"], "12");
}

async fn phone_and_laptop_both_receive(carrier: Carrier) {
    let [one, two] = two(&carrier).await;
    let mut phone = json_session(&one, "carol").await;
    let mut laptop = json_session(&two, "carol").await;
    let mut alice = json_session(&one, "alice").await;
    known(&two, "carol", 2).await;
    known(&one, "carol", 2).await;
    for text in ["1", "2", "3"] {
        write(&mut alice, "carol", text).await;
    }
    let (on_phone, on_laptop) = (read(&mut phone).await, read(&mut laptop).await);
    assert_eq!((&on_phone["id"], &on_phone["text"]), (&on_laptop["id"], &json!("1")));
    for text in ["2", "3"] {
        assert_eq!(
            (read(&mut phone).await["text"].clone(), read(&mut laptop).await["text"].clone()),
            (json!(text), json!(text))
        );
    }
}

/// Waits until an instance knows so many sessions of a user.
async fn known(instance: &Instance, user: &str, sessions: usize) {
    let bearer = format!("Bearer {}", token_of("admin", &json!({"roles": ["presence"]})));
    eventually("the sessions are known", || async {
        let path = format!("/api/presence/users/{user}");
        let answer = request(instance.address, &format!("GET {path}"), &[("Authorization", &bearer)]).await;
        let body: Value = serde_json::from_str(&answer.body).expect("JSON");
        body["count"] == json!(sessions)
    })
    .await;
}

async fn a_plain_session_shows_by_its_pong_that_it_has_a_message(carrier: Carrier) {
    let [one, two] = two(&carrier).await;
    let mut alice = json_session(&one, "alice").await;
    write(&mut alice, "carol", "1").await;
    write(&mut alice, "carol", "2").await;
    let mut plain = Client::connect_as(two.address, "/message", &token("carol")).await;
    assert_eq!((plain.receive().await, plain.receive().await), ("1".into(), "2".into()));
    write(&mut alice, "carol", "3").await;
    assert_eq!(plain.receive().await, "3".into());
    // A broadcast of its own comes back behind its pongs, which went before.
    plain.send("shown").await;
    assert_eq!(plain.receive().await, "shown".into());
    plain.send("again").await;
    assert_eq!(plain.receive().await, "again".into());
    drop(plain);
    let mut next = json_session(&one, "carol").await;
    write(&mut alice, "carol", "4").await;
    assert_eq!(read(&mut next).await["text"], "4");
}

async fn the_teacher_writes_to_the_class(carrier: Carrier) {
    let [one, two] = two(&carrier).await;
    let pupil = token_of("alice", &json!({"groups": ["class 7"]}));
    let mut alice = JsonClient::connect_with(one.address, &[&pupil]).await;
    let path = "/api/groups/class%207/members/bob";
    let bearer = format!("Bearer {}", token("teacher"));
    let change = async |method: &str| {
        request(two.address, &format!("{method} {path}"), &[("Authorization", &bearer), ("Content-Length", "0")]).await
    };
    let answer = change("PUT").await;
    assert_eq!((answer.status, answer.body.contains("true")), (200, true), "{}", answer.body);
    let answer = post_as(&two, "teacher", "/api/groups/class%207/messages", json!({"text": "page 12"})).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let heard = read(&mut alice).await;
    assert_eq!(
        (&heard["group"], &heard["text"], &heard["from"]),
        (&json!("class 7"), &json!("page 12"), &json!("teacher"))
    );
    // Bob was away.
    let mut bob = json_session(&one, "bob").await;
    assert_eq!(read(&mut bob).await["text"], "page 12");
    let answer = change("DELETE").await;
    assert_eq!((answer.status, answer.body.contains("false")), (200, true), "{}", answer.body);
    let mut teacher = json_session(&one, "teacher").await;
    let sent = teacher.answer(json!({"type": "send", "group": "class 7", "text": "page 13"})).await;
    assert_eq!(sent["type"], "ack", "{sent}");
    assert_eq!(read(&mut alice).await["text"], "page 13");
    write(&mut teacher, "bob", "not you").await;
    assert_eq!(read(&mut bob).await["text"], "not you");
    let nobody = post_as(&two, "teacher", "/api/groups/class%208/messages", json!({"text": "x"})).await;
    assert_eq!(nobody.status, 404, "{}", nobody.body);
}

async fn what_is_for_who_is_connected_is_kept_nowhere(carrier: Carrier) {
    let [one, two] = two(&carrier).await;
    let mut alice = json_session(&one, "alice").await;
    let typing = json!({"type": "send", "user": "carol", "text": "is typing", "keep": false});
    assert_eq!(alice.answer(typing.clone()).await["code"], 209);
    let mut carol = json_session(&two, "carol").await;
    known(&one, "carol", 1).await;
    assert_eq!(alice.answer(typing).await["type"], "ack");
    assert_eq!(carol.message().await["text"], "is typing");
    let over_http = post_as(&one, "alice", "/api/users/carol/messages", json!({"text": "still", "keep": false})).await;
    assert_eq!(over_http.status, 200, "{}", over_http.body);
    assert_eq!(carol.message().await["text"], "still");
}

async fn existing_front_ends_send_and_pull(carrier: Carrier) {
    let [one, two] = two(&carrier).await;
    let sent = post_form(&one, "alice", "/wsTemplate/sendToUser", "receiver=carol&msg=hi+there%21").await;
    assert_eq!((sent.status, sent.body.as_str()), (200, "ok"));
    let sent = post_form(&two, "bob", "/wsTemplate/sendToUser", "receiver=carol&msg=other&destination=%2Fx").await;
    assert_eq!((sent.status, sent.body.as_str()), (200, "ok"));
    let pull = async |destination: &str| {
        let form = format!("destination={destination}");
        let answer = post_form(&two, "carol", "/wsTemplate/pullUnreadMessage", &form).await;
        assert_eq!(answer.status, 200);
        serde_json::from_str::<Value>(&answer.body).expect("JSON")
    };
    let expected = json!({"code": "200", "result": [json!({"content": "alice say: hi there!"}).to_string()]});
    assert_eq!(pull("/topic/reply").await, expected);
    assert_eq!(pull("/topic/reply").await, json!({"code": "200"}), "at most once");
    let of_x = json!({"code": "200", "result": [json!({"content": "bob say: other"}).to_string()]});
    assert_eq!(pull("/x").await, of_x);
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let nobody = post(one.address, "/wsTemplate/pullUnreadMessage", &[form], "destination=/x").await;
    let told: Value = serde_json::from_str(&nobody.body).expect("JSON");
    assert_eq!((nobody.status, &told["code"], told["msg"].is_string()), (200, &json!("500"), true));
    // Whoever is connected hears it at once.
    let mut plain = Client::connect_as(two.address, "/message", &token("carol")).await;
    let sent = post_form(&one, "alice", "/wsTemplate/sendToUser", "receiver=carol&msg=now").await;
    assert_eq!(sent.status, 200);
    assert_eq!(plain.receive().await, r#"{"content":"alice say: now"}"#.into());
}

/// With RabbitMQ a call holds whatever it looks at, also what another wants.
async fn two_calls_at_once_take_all_that_each_wants(carrier: Carrier) {
    const OF_EACH: usize = 8;
    let [one, _two] = two(&carrier).await;
    for round in 0..3 {
        for number in 0..2 * OF_EACH {
            let destination = ["%2Fa", "%2Fb"][number % 2];
            let form = format!("receiver=carol&msg={round}.{number}&destination={destination}");
            assert_eq!(post_form(&one, "alice", "/wsTemplate/sendToUser", &form).await.body, "ok");
        }
        let pull = async |destination: &str| {
            let form = format!("destination={destination}");
            let answer = post_form(&one, "carol", "/wsTemplate/pullUnreadMessage", &form).await;
            let told: Value = serde_json::from_str(&answer.body).expect("JSON");
            told["result"].as_array().map_or(0, Vec::len)
        };
        let pulled = tokio::join!(pull("/a"), pull("/b"), pull("/c"));
        assert_eq!(pulled, (OF_EACH, OF_EACH, 0), "round {round}");
    }
}

async fn who_may_not_send_is_told(carrier: Carrier) {
    let [one, _two] = two(&carrier).await;
    let mut mallory = JsonClient::connect_with(one.address, &[&token_of("mallory", &json!({}))]).await;
    assert_eq!(mallory.answer(json!({"type": "send", "user": "carol", "text": "x"})).await["code"], 109);
    let bearer = format!("Bearer {}", token_of("mallory", &json!({"roles": ["presence"]})));
    let headers = [JSON, ("Authorization", &*bearer)];
    for path in ["/api/users/carol/messages", "/api/groups/class/messages"] {
        assert_eq!(post(one.address, path, &headers, r#"{"text": "x"}"#).await.status, 403, "{path}");
        assert_eq!(post(one.address, path, &[JSON], r#"{"text": "x"}"#).await.status, 401, "{path}");
    }
    let answer = post_as(&one, "alice", "/api/users/%20/messages", json!({"text": "x"})).await;
    assert_eq!(answer.status, 400, "{}", answer.body);
}

/// By the clock that tells what came before whom.
async fn another_millisecond() {
    let began = now_unix_ms();
    eventually("the clock goes on", || async { now_unix_ms() > began }).await;
}

async fn what_was_missed_waits_to_be_asked_for(carrier: Carrier) {
    let [one, two] = two_with(&carrier, |config| config.unread = Unread::Pull).await;
    let mut alice = json_session(&one, "alice").await;
    for text in ["1", "2"] {
        write(&mut alice, "carol", text).await;
    }
    another_millisecond().await;
    let mut carol = json_session(&two, "carol").await;
    another_millisecond().await;
    write(&mut alice, "carol", "3").await;
    assert_eq!(read(&mut carol).await["text"], "3", "live");
    let unread = async || {
        let answer = post_as(&one, "carol", "/api/unread", json!({})).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let body: Value = serde_json::from_str(&answer.body).expect("JSON");
        let messages = body["messages"].as_array().expect("messages").clone();
        messages.iter().map(|message| message["text"].as_str().expect("a text").to_owned()).collect::<Vec<_>>()
    };
    // What waits is put aside before what comes behind it is told.
    let mut asked = Vec::new();
    within_deadline("all is there", async {
        while asked.len() < 2 {
            asked.extend(unread().await);
        }
    })
    .await;
    assert_eq!(asked, ["1", "2"]);
    assert!(unread().await.is_empty(), "at most once");
    // Who is away is asked for without a session, too.
    drop(carol);
    write(&mut alice, "bob", "4").await;
    let answer = post_form(&two, "bob", "/wsTemplate/pullUnreadMessage", "destination=%2Fany").await;
    let told: Value = serde_json::from_str(&answer.body).expect("JSON");
    assert_eq!(told, json!({"code": "200", "result": [json!({"content": "4"}).to_string()]}));
}

/// The phone hears and says nothing; the laptop is on the other instance.
async fn what_is_not_acknowledged_passes_to_another_instance(carrier: Carrier) {
    // What comes ahead of acknowledgements, and more.
    const LETTERS: usize = 40;
    let [one, two] = two_with(&carrier, |config| config.letter_ack_timeout_ms = 1000).await;
    let mut phone = json_session(&one, "carol").await;
    let mut alice = json_session(&two, "alice").await;
    write(&mut alice, "carol", "first").await;
    assert_eq!(phone.message().await["text"], "first", "it is the phone's instance that reads");
    let mut laptop = json_session(&two, "carol").await;
    for number in 0..LETTERS {
        write(&mut alice, "carol", &number.to_string()).await;
    }
    let mut seen = Vec::new();
    while seen.last() != Some(&(LETTERS - 1).to_string()) {
        let text = read(&mut laptop).await["text"].as_str().expect("a text").to_owned();
        // What was copied comes again from the mailbox.
        if !seen.contains(&text) {
            seen.push(text);
        }
    }
    let all = (0..LETTERS).map(|number| number.to_string());
    assert!(seen.iter().filter(|text| *text != "first").cloned().eq(all), "in order: {seen:?}");
    assert_eq!(phone.notice_of("error").await["code"], 210);
}
