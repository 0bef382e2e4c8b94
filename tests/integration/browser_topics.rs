//! The page's topics and its form to publish, in a real browser.

use fantoccini::key::Key;
use serde_json::json;

use crate::support::backend::{Backend, Language};
use crate::support::broker::Cluster;
use crate::support::browser::Browser;
use crate::support::client::Client;
use crate::support::post::{notify, post_json, published};
use crate::support::process::{Directory, Process, Signal, Warren, free_port};
use crate::support::{eventually, sessions_become};

#[tokio::test]
async fn without_a_topic_the_page_is_a_plain_session() {
    let warren = Warren::serve(&[], &[]).await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    page.is("open").await;
    sessions_become(warren.address, 1).await;
    notify(warren.address, "topic.to-frontend", "not for here").await;
    page.sends("for all").await;
    page.shows(&["for all"]).await;
    assert_eq!(page.value("document.querySelectorAll('.origin').length").await, 0);
}

#[tokio::test]
async fn topics_are_joined_and_left_several_at_once() {
    let warren = Warren::serve(&[], &[]).await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    page.is("open").await;
    page.joins("/orders/eu, orders.us  parcels.*", 3).await;
    sessions_become(warren.address, 2).await;
    let id = notify(warren.address, "orders.eu", "one").await;
    page.shows(&["one"]).await;
    assert_eq!(page.text_of("#messages .topic").await, "orders.eu");
    assert_eq!(page.text_of("#messages .id").await, id);
    notify(warren.address, "parcels.17", "<b>two</b>").await;
    page.shows(&["<b>two</b>", "one"]).await;
    page.sends("the broadcast, too").await;
    page.shows(&["the broadcast, too", "<b>two</b>", "one"]).await;
    let bytes = json!({"topic": "orders.us", "base64": "AP8="});
    published(&post_json(warren.address, "/api/publish", &bytes).await);
    page.shows(&["Binary, 2 bytes: 00 ff", "the broadcast, too", "<b>two</b>", "one"]).await;

    page.clicks("[aria-label='Leave orders.eu']").await;
    page.says("#topics-status", "Left orders.eu").await;
    assert_eq!(page.focused().await, "topic");
    page.joins("orders.fr", 3).await;
    notify(warren.address, "orders.eu", "unheard").await;
    notify(warren.address, "orders.fr", "heard").await;
    page.shows(&["heard", "Binary, 2 bytes: 00 ff", "the broadcast, too", "<b>two</b>", "one"]).await;
    for topic in ["orders.us", "parcels.*", "orders.fr"] {
        page.clicks(&format!("[aria-label='Leave {topic}']")).await;
    }
    sessions_become(warren.address, 1).await;
    assert_eq!(browser.console().await, [""; 0]);
}

#[tokio::test]
async fn what_is_no_topic_is_told_and_not_joined() {
    let warren = Warren::serve(&["--topics-per-session-max", "1"], &[]).await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    page.is("open").await;
    page.clicks("#join").await;
    page.says("#topics-status", "Type the name").await;
    page.joins("a..b", 0).await;
    page.says("#topics-status", "a..b is not joined: a word between two separators is missing").await;
    sessions_become(warren.address, 1).await;
    page.joins("a", 1).await;
    page.joins("b", 1).await;
    page.says("#topics-status", "b is not joined: a session has at most 1 topics").await;
    page.writes("#topic", "/a").await;
    page.presses(Key::Enter).await;
    page.says("#topics-status", "a is joined already").await;
}

#[tokio::test]
async fn one_click_joins_what_the_example_backends_say() {
    let warren = Warren::serve(&[], &[]).await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    page.is("open").await;
    page.clicks("#join-demo").await;
    page.has_joined(1).await;
    notify(warren.address, "/topic/to-frontend", "from a backend").await;
    page.shows(&["from a backend"]).await;
    assert_eq!(page.value("document.getElementById('join-demo').hidden").await, true);
    // A reload keeps it, another window begins anew.
    page.value("location.reload()").await;
    page.has_joined(1).await;
    let other = browser.open_another(&warren.url()).await;
    other.is("open").await;
    other.has_joined(0).await;
}

#[tokio::test]
async fn topics_come_back_and_the_server_s_gap_is_shown() {
    let port = free_port().to_string();
    let flags = ["--port", &port, "--retry-after-max-ms", "100"];
    let warren = Warren::serve(&flags, &[]).await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    page.joins("a b.*", 2).await;
    notify(warren.address, "a", "before").await;
    page.shows(&["before"]).await;
    warren.process.signal(Signal::TERM);
    assert_eq!(warren.process.ended().await.code, Some(0));
    page.says("#topics-status", "Code 1001").await;
    let warren = Warren::serve(&flags, &[]).await;
    page.has_joined(2).await;
    // What was said to an instance that is alone is gone with it, and the new one says so.
    page.says("#messages .gap", "Messages may be missing here.").await;
    notify(warren.address, "b.c", "after").await;
    page.shows(&["after", "before"]).await;
    assert_eq!(page.text_of("#received").await, "2 received");
}

#[tokio::test]
async fn a_page_that_lost_its_instance_shows_what_was_said_meanwhile() {
    let cluster = Cluster::shared();
    let port = free_port().to_string();
    let flags = ["--delivery", "stream", "--port", &port, "--retry-after-max-ms", "100"];
    let other = Warren::join(&cluster, &["--delivery", "stream"]).await;
    let mut warren = Warren::join(&cluster, &flags).await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    page.joins("a b.*", 2).await;
    notify(other.address, "a", "before").await;
    page.shows(&["before"]).await;
    let mut shown = vec!["before"];
    for meanwhile in ["while it was away", "while it was away again"] {
        warren.process.kill().await;
        page.says("#topics-status", "being joined again").await;
        notify(other.address, "b.c", meanwhile).await;
        warren = Warren::join(&cluster, &flags).await;
        shown.insert(0, meanwhile);
        page.shows(&shown).await;
        page.has_joined(2).await;
        page.says("#topics-status", "Joined a, b.* again, from where the connection was lost.").await;
    }
    // What is joined from now on goes beside.
    page.joins("c", 3).await;
    notify(other.address, "c", "after").await;
    shown.insert(0, "after");
    page.shows(&shown).await;
    page.has_gaps(0).await;
}

#[tokio::test]
async fn where_nobody_goes_on_topics_begin_anew_and_the_page_tells_the_gap() {
    let port = free_port().to_string();
    let flags = ["--port", &port, "--retry-after-max-ms", "100"];
    let mut warren = Warren::serve(&flags, &[]).await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    page.joins("a b.*", 2).await;
    // First its cursor is refused, then it has none.
    for gaps in [1, 2] {
        warren.process.kill().await;
        page.says("#topics-status", "being joined again").await;
        warren = Warren::serve(&[&flags[..], &["--resume-bytes-max", "0"]].concat(), &[]).await;
        page.has_joined(2).await;
        page.has_gaps(gaps).await;
        page.says("#messages .gap", "What was said to the joined topics meanwhile is missing here.").await;
    }
    notify(warren.address, "b.c", "after").await;
    page.shows(&["after"]).await;
}

#[tokio::test]
async fn what_the_server_tells_of_gaps_is_shown() {
    let warren = Warren::serve(&[], &[]).await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    page.is("open").await;
    // The page hears what the server says when something is lost.
    page.value(
        "(window.WebSocket = class extends WebSocket {
            constructor(...rest) { super(...rest); window.latest = this; }
        }, true)",
    )
    .await;
    page.joins("a", 1).await;
    page.value(
        "window.latest.dispatchEvent(new MessageEvent('message',
            { data: JSON.stringify({ type: 'gap', scope: 'topics', missing: 3 }) }))",
    )
    .await;
    page.says("#messages .gap", "3 messages of joined topics are missing here.").await;
}

/// The page's form and the line to copy from it, on one instance; a window on the other hears both.
#[tokio::test]
async fn what_the_form_and_its_curl_line_publish_reaches_a_window_on_the_other_instance() {
    let cluster = Cluster::shared();
    let (one, two) = (Warren::join(&cluster, &[]).await, Warren::join(&cluster, &[]).await);
    let browser = Browser::start().await;
    let ann = browser.open(&one.url()).await;
    let bob = browser.open_another(&two.url()).await;
    bob.joins("orders.#", 1).await;
    ann.clicks(".publish summary").await;
    ann.writes("#publish-topic", "/orders/17").await;
    ann.writes("#publish-message", "it's \"shipped\" \\ $HOME").await;
    ann.clicks("#publish-now").await;
    ann.says("#publish-result", "Published: ").await;
    let text = "it's \"shipped\" \\ $HOME";
    bob.shows(&[text]).await;

    let line = ann.text_of("#curl").await;
    assert!(line.starts_with("curl -d '"), "{line}");
    let ended = Process::start("sh", &["-c", &format!("{line} --silent --fail-with-body")], &[]).ended().await;
    assert_eq!(ended.code, Some(0), "{line}: {ended:?}");
    bob.shows(&[text, text]).await;
    assert_eq!(bob.text_of("#messages .topic").await, "orders.17");
    assert!(ended.stdout.contains(&bob.text_of("#messages .id").await), "{ended:?}");
    assert_eq!(browser.console().await, [""; 0]);
}

/// From one window to one of two backends, and back to both.
#[tokio::test]
async fn what_a_page_asks_one_backend_answers_for_all_to_see() {
    let cluster = Cluster::shared();
    let (one, two) = (Warren::join(&cluster, &[]).await, Warren::join(&cluster, &[]).await);
    let _backends = [
        Backend::start(Language::Rust, &cluster, "first", 0).await,
        Backend::start(Language::Rust, &cluster, "second", 0).await,
    ];
    let browser = Browser::start().await;
    let ann = browser.open(&one.url()).await;
    let bob = browser.open_another(&two.url()).await;
    ann.is("open").await;
    ann.clicks(".publish + .publish summary").await;
    ann.clicks("#ask-now").await;
    ann.says("#ask-result", "Join a topic first").await;
    for window in [&ann, &bob] {
        window.joins("answers", 1).await;
    }
    ann.writes("#ask-message", "who is there?").await;
    ann.clicks("#ask-now").await;
    ann.says("#ask-result", "A group of backends has it: ").await;
    let of_answer = "[...document.querySelectorAll('#messages li')].filter((one) => one.textContent.includes('who is there?')).length";
    eventually(
        "both windows show what one backend said to all, and the asking one what it was told alone",
        async || ann.value(of_answer).await == 2 && bob.value(of_answer).await == 1,
    )
    .await;
    ann.writes("#ask-destination", "nowhere").await;
    ann.clicks("#ask-now").await;
    ann.says("#ask-result", "Not sent: ").await;
}

#[tokio::test]
async fn the_form_says_what_is_wrong_and_takes_a_key() {
    // FIPS 180-2's example.
    let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let directory = Directory::new("page-keys");
    let keys = directory.write("keys", &format!("shop {hash}\n"));
    let warren = Warren::serve(&["--api-keys-file", &keys], &[]).await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    page.is("open").await;
    page.clicks(".publish summary").await;
    page.clicks("#publish-now").await;
    page.says("#publish-result", "401, An API key or a token is required: ").await;
    page.writes("#publish-key", "abc").await;
    let line = page.text_of("#curl").await;
    assert!(line.contains("\"Authorization: Bearer $WARREN_API_KEY\"") && !line.contains("abc"), "{line}");
    page.writes("#publish-topic", "a..b").await;
    page.clicks("#publish-now").await;
    page.says("#publish-result", "400, This names no topic: ").await;
    let mut client = Client::subscribe(warren.address, "a.b").await;
    page.writes("#publish-topic", "a.b").await;
    page.clicks("#publish-now").await;
    page.says("#publish-result", "Published: ").await;
    client.receives(&["shipped"]).await;
    let kept = page.value("JSON.stringify([{ ...sessionStorage }, { ...localStorage }, document.cookie])").await;
    assert!(!kept.as_str().expect("a text").contains("abc"), "{kept}");
}
