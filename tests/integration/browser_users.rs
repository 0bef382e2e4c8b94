//! Signing in on the page, who is here, and writing to users and groups, in a real browser.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::support::broker::Cluster;
use crate::support::browser::{Browser, Page};
use crate::support::client::Client;
use crate::support::eventually;
use crate::support::identity::{SECRET, now_s, token_of};
use crate::support::post::{JSON, notify, post, published};
use crate::support::process::{Directory, Warren};

const OPEN_TO_ALL: [&str; 2] = ["--anonymous", "allow"];

/// The options of a development server whose key is in `directory`.
fn development<'a>(key: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["--jwt-key-file", key, "--dev-sign-in"], more].concat()
}

fn key_in(directory: &Directory) -> String {
    directory.write("key", SECRET)
}

/// Two instances on RabbitMQ on which anybody may sign in.
async fn two(cluster: &Cluster, key: &str, more: &[&str]) -> (Warren, Warren) {
    let options = development(key, &[&OPEN_TO_ALL, more].concat());
    (Warren::join(cluster, &options).await, Warren::join(cluster, &options).await)
}

async fn sign_in(page: &Page<'_>, user: &str, groups: &str) {
    page.writes("#sign-in-user", user).await;
    page.writes("#sign-in-groups", groups).await;
    page.clicks("#sign-in").await;
    is_signed_in(page, user).await;
}

async fn is_signed_in(page: &Page<'_>, user: &str) {
    page.says("#account", &format!("Signed in as {user}")).await;
    page.is("open").await;
}

/// Waits until these are here, as the page shows it.
async fn are_here(page: &Page<'_>, users: &[&str]) {
    let shown = "[...document.querySelectorAll('#here li')].map((entry) => entry.dataset.user)";
    eventually(&format!("{users:?} are here"), || async { page.value(shown).await == json!(users) }).await;
}

/// Waits until these texts were written to the user, the newest first.
async fn has_letters(page: &Page<'_>, texts: &[&str]) {
    let shown = "[...document.querySelectorAll('#letters .payload')].map((e) => e.textContent)";
    eventually(&format!("{texts:?} are shown"), || async { page.value(shown).await == json!(texts) }).await;
}

/// How many of them were missed, as the page says.
async fn missed(page: &Page<'_>) -> usize {
    let count = page.value("document.querySelectorAll('#letters .missed').length").await;
    usize::try_from(count.as_u64().expect("a number")).expect("a few")
}

async fn write(page: &Page<'_>, kind: &str, to: &str, text: &str) {
    page.clicks(&format!("#write-kind option[value={kind}]")).await;
    page.writes("#write-to", to).await;
    page.writes("#write-text", text).await;
    page.clicks("#write-send").await;
}

/// Writes to a user, and waits until it is kept.
async fn write_to(page: &Page<'_>, user: &str, text: &str) {
    write(page, "user", user, text).await;
    page.says("#write-result", "Kept until it is read").await;
    let field = "document.getElementById('write-text').value";
    eventually("what was sent leaves the field", || async { page.value(field).await == "" }).await;
}

async fn is_shown(page: &Page<'_>, id: &str) -> bool {
    page.value(&format!("!document.getElementById('{id}').hidden")).await == true
}

#[tokio::test]
async fn alice_and_bob_see_and_write_to_each_other_across_instances() {
    let (cluster, directory) = (Cluster::shared(), Directory::new("page-users"));
    let key = key_in(&directory);
    let (one, two) = two(&cluster, &key, &[]).await;
    let browser = Browser::start().await;
    let (alice, bob) = (browser.open(&one.url()).await, browser.open_another(&two.url()).await);
    sign_in(&alice, "alice", "").await;
    are_here(&alice, &["alice"]).await;
    sign_in(&bob, "bob", "").await;
    for page in [&alice, &bob] {
        are_here(page, &["alice", "bob"]).await;
    }
    alice.says("#here-status", "bob has come.").await;

    alice.clicks("#here [data-user=bob] button").await;
    assert_eq!(alice.focused().await, "write-text");
    alice.writes("#write-text", "hello <b>bob</b>").await;
    alice.clicks("#write-send").await;
    has_letters(&bob, &["hello <b>bob</b>"]).await;
    assert_eq!(bob.text_of("#letters .from").await, "alice");
    write_to(&bob, "alice", "hello yourself").await;
    has_letters(&alice, &["hello yourself"]).await;
    assert_eq!((missed(&alice).await, missed(&bob).await), (0, 0));
    // What is for all reaches those who are nobody, too.
    let mut nobody = Client::connect(two.address).await;
    alice.sends("for all").await;
    nobody.receives(&["for all"]).await;
    nobody.send("from nobody").await;
    for page in [&alice, &bob] {
        page.shows(&["from nobody", "for all"]).await;
        assert_eq!(page.text_of("#received").await, "2 received");
    }

    bob.clicks("#sign-out").await;
    bob.says("#account-status", "Signed out.").await;
    bob.is("open").await;
    assert!(!is_shown(&bob, "signed-in").await);
    has_letters(&bob, &[]).await;
    are_here(&alice, &["alice"]).await;
    alice.says("#here-status", "bob has left.").await;
    bob.sends("as nobody").await;
    alice.shows(&["as nobody", "from nobody", "for all"]).await;
    assert_eq!(browser.console().await, [""; 0]);
}

/// Carol was on one instance, and comes back to the other.
#[tokio::test]
async fn who_was_away_finds_what_was_written_meanwhile_in_order_and_once() {
    let (cluster, directory) = (Cluster::shared(), Directory::new("page-unread"));
    let key = key_in(&directory);
    let (one, two) = two(&cluster, &key, &[]).await;
    let browser = Browser::start().await;
    let (alice, carol) = (browser.open(&one.url()).await, browser.open_another(&one.url()).await);
    sign_in(&alice, "alice", "").await;
    sign_in(&carol, "carol", "").await;
    are_here(&alice, &["alice", "carol"]).await;
    carol.clicks("#sign-out").await;
    are_here(&alice, &["alice"]).await;
    for text in ["first", "second", "third"] {
        write_to(&alice, "carol", text).await;
    }
    // RabbitMQ tells the second in which something was sent, and so the page knows no better.
    let written_s = now_s();
    eventually("the second is over", || async { now_s() > written_s }).await;

    let carol = browser.open_another(&two.url()).await;
    carol.joins("orders", 1).await;
    sign_in(&carol, "carol", "").await;
    has_letters(&carol, &["third", "second", "first"]).await;
    assert_eq!(missed(&carol).await, 3);
    // The session for topics is hers, too: nothing is shown twice.
    carol.has_joined(1).await;
    notify(one.address, "orders", "17").await;
    carol.shows(&["17"]).await;
    write_to(&alice, "carol", "fourth").await;
    has_letters(&carol, &["fourth", "third", "second", "first"]).await;
    assert_eq!(missed(&carol).await, 3, "the last came live");

    // She stays who she is over a reload, and what was shown was acknowledged.
    carol.value("location.reload()").await;
    is_signed_in(&carol, "carol").await;
    write_to(&alice, "carol", "fifth").await;
    has_letters(&carol, &["fifth"]).await;
    assert_eq!(browser.console().await, [""; 0]);
}

#[tokio::test]
async fn a_group_is_written_to_on_both_instances_and_what_cannot_be_is_said_in_words() {
    let (cluster, directory) = (Cluster::shared(), Directory::new("page-groups"));
    let key = key_in(&directory);
    let (one, two) = two(&cluster, &key, &["--unread-messages-max", "1"]).await;
    let browser = Browser::start().await;
    let teacher = browser.open(&one.url()).await;
    let (bob, carol) = (browser.open_another(&one.url()).await, browser.open_another(&two.url()).await);
    sign_in(&teacher, "teacher", "").await;
    sign_in(&bob, "bob", "class").await;
    sign_in(&carol, "carol", "choir, class").await;
    carol.says("#account", "Signed in as carol, in choir, class").await;
    are_here(&teacher, &["bob", "carol", "teacher"]).await;
    write(&teacher, "group", "class", "page 12").await;
    teacher.says("#write-result", "Everybody in class gets it now, or on signing in.").await;
    for pupil in [&bob, &carol] {
        has_letters(pupil, &["page 12"]).await;
        assert_eq!(pupil.text_of("#letters .origin").await, "from teacher to the group class");
    }

    write(&teacher, "group", "nowhere", "anybody?").await;
    teacher.says("#write-result", "Not sent to nowhere: nobody belongs to this group (207).").await;
    teacher.clicks("#write-kind option[value=user]").await;
    teacher.clicks("#write-now").await;
    write(&teacher, "user", "dave", "still there?").await;
    teacher.says("#write-result", "Not sent to dave: not connected, and it was not to be kept (209).").await;
    teacher.clicks("#write-now").await;
    write_to(&teacher, "dave", "call me").await;
    write(&teacher, "user", "dave", "please").await;
    teacher.says("#write-result", "Not sent to dave: the mailbox is full (206).").await;
    assert_eq!(browser.console().await, [""; 0]);
}

#[tokio::test]
async fn who_must_sign_in_is_told_and_may() {
    let directory = Directory::new("page-closed");
    let key = key_in(&directory);
    let warren = Warren::serve(&development(&key, &[]), &[]).await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    page.is("closed").await;
    page.says("#status", "This server lets in only who is signed in (401)").await;
    sign_in(&page, "alice", "").await;
    page.joins("orders", 1).await;
    page.sends("hello").await;
    page.shows(&["hello"]).await;
    let kept = page.value("[Object.keys(sessionStorage), Object.keys(localStorage), document.cookie]").await;
    let is_token = |key: &serde_json::Value| key == "warren.token";
    assert!(kept[0].as_array().expect("a list").iter().any(is_token), "{kept}");
    assert_eq!((&kept[1], &kept[2]), (&json!([]), &json!("")), "for this window alone");

    page.clicks("#sign-out").await;
    page.is("closed").await;
    assert_eq!(page.focused().await, "sign-in-user");
    assert_eq!(page.value("sessionStorage.getItem('warren.token')").await, json!(null));
    page.has_joined(0).await;
    // What was joined is so again when somebody comes.
    sign_in(&page, "bob", "").await;
    page.has_joined(1).await;
}

#[tokio::test]
async fn a_token_that_ends_is_renewed_and_one_that_has_ended_is_told() {
    let directory = Directory::new("page-tokens");
    let key = key_in(&directory);
    let warren = Warren::serve(&development(&key, &OPEN_TO_ALL), &[]).await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    page.is("open").await;
    let comes_with = async |claims: &serde_json::Value| {
        let token = token_of("alice", claims);
        page.value(&format!("sessionStorage.setItem('warren.token', {token:?})")).await;
        page.value("location.reload()").await;
        token
    };
    // The server tells 30 seconds before.
    let short = comes_with(&json!({"exp": now_s() + 20, "groups": ["class"]})).await;
    page.says("#account", "Signed in as alice, in class").await;
    let kept = "sessionStorage.getItem('warren.token')";
    eventually("the token is another", || async { page.value(kept).await != json!(short) }).await;
    page.value("location.reload()").await;
    page.says("#account", "Signed in as alice, in class").await;

    let passed = SystemTime::now().duration_since(UNIX_EPOCH).expect("later than 1970").as_secs() - 60;
    comes_with(&json!({ "exp": passed })).await;
    page.says("#account-status", "The token does not count: it has ended (expired).").await;
    page.is("open").await;
    assert_eq!(page.value(kept).await, json!(null));
    assert!(is_shown(&page, "sign-in-by-name").await);
}

/// What was heard by alice's rights, and what she wrote, is not for whoever sits there next.
#[tokio::test]
async fn who_signs_out_leaves_nothing_on_the_screen() {
    let directory = Directory::new("page-leaves-nothing");
    let key = key_in(&directory);
    let warren = Warren::serve(&development(&key, &["--message-bytes-max", "1024"]), &[]).await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    page.is("closed").await;
    sign_in(&page, "alice", "").await;
    page.joins("orders", 1).await;
    page.sends("for all").await;
    page.shows(&["for all"]).await;
    notify(warren.address, "orders", "17").await;
    page.shows(&["17", "for all"]).await;
    write(&page, "group", "nowhere", "to a group").await;
    page.says("#write-result", "nobody belongs to this group").await;
    // What may be lost is back in the field, and a notice says so.
    page.value("document.getElementById('text').value = 'x'.repeat(9000)").await;
    page.clicks("#send").await;
    page.notices("may not have been delivered").await;
    is_signed_in(&page, "alice").await;
    assert_eq!(page.draft().await.len(), 9000);

    page.clicks("#sign-out").await;
    page.says("#account-status", "Signed out.").await;
    let left = "[...['received', 'notice', 'announcer', 'write-result', 'here-status'].map((id) => \
        document.getElementById(id).textContent), ...['text', 'write-to', 'write-text'].map((id) => \
        document.getElementById(id).value), sessionStorage.getItem('warren.text')]";
    assert_eq!(page.value(left).await, json!(vec![""; 9]));
    assert!(page.messages().await.is_empty() && is_shown(&page, "empty").await);
    page.is("closed").await;
    sign_in(&page, "bob", "").await;
    page.has_joined(1).await;
    page.sends("from bob").await;
    page.shows(&["from bob"]).await;
    assert_eq!(page.text_of("#received").await, "1 received");
}

/// A proxy's error page, and a server that has not read its keys yet, say nothing about the token.
#[tokio::test]
async fn a_page_that_is_not_told_who_it_is_waits_with_its_token() {
    let directory = Directory::new("page-not-told");
    let key = key_in(&directory);
    let warren = Warren::serve(&development(&key, &OPEN_TO_ALL), &[]).await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    page.is("open").await;
    let alice = format!("Bearer {}", token_of("alice", &json!({"roles": ["send"]})));
    let headers = [JSON, ("Authorization", &*alice)];
    published(&post(warren.address, "/api/users/carol/messages", &headers, r#"{"text": "hello"}"#).await);
    let answers = async |status: u16, body: &str| {
        let other = format!("Promise.resolve(new Response({body:?}, {{ status: {status} }}))");
        let fetch = format!("(path, ...more) => path === '/api/whoami' ? {other} : asked(path, ...more)");
        page.value(&format!("(window.asked ??= window.fetch, window.fetch = {fetch}, null)")).await;
    };
    answers(502, "<h1>Bad Gateway</h1>").await;
    page.writes("#sign-in-user", "carol").await;
    page.clicks("#sign-in").await;
    page.says("#status", "does not say who this is: it gave no answer that makes sense").await;
    answers(503, r#"{"detail": "There are no keys yet."}"#).await;
    page.says("#status", "does not say who this is: There are no keys yet. (503)").await;
    assert!(page.value("sessionStorage.getItem('warren.token')").await.is_string());
    assert!(!is_shown(&page, "signed-in").await);

    page.value("(window.fetch = asked, null)").await;
    is_signed_in(&page, "carol").await;
    // Nothing was acknowledged while it was not shown.
    has_letters(&page, &["hello"]).await;
}

/// Where nobody gives tokens, one brings one's own.
#[tokio::test]
async fn a_token_from_elsewhere_may_be_brought_until_it_ends() {
    let directory = Directory::new("page-own-tokens");
    let key = key_in(&directory);
    let warren = Warren::serve(&["--jwt-key-file", &key, "--jwt-leeway-s", "0"], &[]).await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    page.is("closed").await;
    assert!(!is_shown(&page, "sign-in-by-name").await);
    page.writes("#sign-in-token", "nonsense").await;
    page.clicks("#use-token").await;
    page.says("#account-status", "The token does not count: it is no token (malformed).").await;
    page.is("closed").await;
    page.writes("#sign-in-token", &token_of("alice", &json!({"exp": now_s() + 10, "subscribe": [""]}))).await;
    page.clicks("#use-token").await;
    is_signed_in(&page, "alice").await;
    page.says("#here-status", "Who is here is not told: ").await;
    write(&page, "user", "bob", "hello").await;
    page.says("#write-result", "Not sent to bob: your token does not let you write to users and groups (109).").await;
    page.says("#account-status", "Not signed in any more: the token has ended.").await;
    page.is("closed").await;
    page.says("#status", "only who is signed in").await;
}

#[tokio::test]
async fn long_names_and_messages_fit_a_phone() {
    let directory = Directory::new("page-phone");
    let key = key_in(&directory);
    let warren = Warren::serve(&development(&key, &OPEN_TO_ALL), &[]).await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    let (name, unbroken) = ("wide".repeat(32), "wide".repeat(200));
    sign_in(&page, &name, &format!("{name}, {name}")).await;
    are_here(&page, &[&name]).await;
    write_to(&page, &name, &unbroken).await;
    has_letters(&page, &[&unbroken]).await;
    for width in [320, 390] {
        page.becomes_a_phone(width).await;
        assert_eq!(page.value("innerWidth").await, width, "it is a phone");
        assert_eq!(page.value("document.documentElement.scrollWidth").await, width);
        let beyond = "[...document.querySelectorAll('#users *')] \
            .filter((element) => element.getBoundingClientRect().right > innerWidth && !element.matches('.unseen')) \
            .map((element) => element.outerHTML)";
        assert_eq!(page.value(beyond).await, json!([]), "at {width} pixels");
    }
}

#[tokio::test]
async fn a_server_without_a_key_says_how_one_signs_in() {
    let warren = Warren::serve(&[], &[]).await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    page.is("open").await;
    page.says("#sign-in-how", "--jwt-key-file FILE --dev-sign-in --anonymous allow").await;
    for (id, shown) in
        [("sign-in-how", true), ("sign-in-by-name", false), ("sign-in-by-token", false), ("signed-in", false)]
    {
        assert_eq!(is_shown(&page, id).await, shown, "{id}");
    }
    assert_eq!(browser.console().await, [""; 0]);
}
