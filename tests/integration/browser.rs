//! The page in a real browser: what a person sees, types and presses.

use fantoccini::key::Key;

use crate::support::broker::{Cluster, PrivateNode};
use crate::support::browser::Browser;
use crate::support::client::get_json;
use crate::support::eventually;
use crate::support::process::{Signal, Warren, free_port};

/// Two processes that RabbitMQ joins.
async fn two_instances(cluster: &Cluster) -> (Warren, Warren) {
    let env = [("WARREN_BROKER", cluster.url.as_str()), ("WARREN_PREFIX", &cluster.prefix)];
    let (one, two) = (Warren::serve(&[], &env).await, Warren::serve(&[], &env).await);
    one.ready().await;
    two.ready().await;
    (one, two)
}

#[tokio::test]
async fn what_is_typed_in_one_window_is_read_in_the_other() {
    let cluster = Cluster::shared();
    let (one, two) = two_instances(&cluster).await;
    let browser = Browser::start().await;
    let (ann, bob) = (browser.open(&one.url()).await, browser.open_another(&two.url()).await);
    for (page, instance) in [(&ann, &one), (&bob, &two)] {
        page.is("open").await;
        let name = page.text_of("#instance").await;
        assert!(name.ends_with(&format!("_{}", instance.address.port())), "{name}");
    }

    ann.sends("hello").await;
    bob.shows(&["hello"]).await;
    assert_eq!(ann.draft().await, "", "what was sent leaves the field");
    bob.sends("hello yourself").await;
    for page in [&ann, &bob] {
        page.shows(&["hello yourself", "hello"]).await;
        assert_eq!(page.text_of("#received").await, "2 received");
    }
    assert_eq!(browser.console().await, [""; 0]);
}

/// Chromium offers compression by itself, and compresses all that it sends once that is agreed.
#[tokio::test]
async fn long_messages_travel_compressed_both_ways() {
    let warren = Warren::serve(&[], &[]).await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    page.is("open").await;
    let extensions = page
        .script_value(
            "const done = arguments[arguments.length - 1];
            const socket = new WebSocket(`ws://${location.host}/message`);
            socket.onopen = () => { done(socket.extensions); socket.close(); };",
        )
        .await;
    assert_eq!(extensions, "permessage-deflate; server_no_context_takeover; client_no_context_takeover");

    let (mine, theirs) = ("Zwölf Boxkämpfer jagen Viktor. ".repeat(50), "über den großen Sylter Deich. ".repeat(50));
    let (mine, theirs) = (mine.trim_end(), theirs.trim_end());
    let mut client = warren.connect().await;
    page.sends(mine).await;
    client.receives(&[mine]).await;
    client.send(theirs).await;
    page.shows(&[theirs, mine]).await;
    assert_eq!(browser.console().await, [""; 0]);
}

#[tokio::test]
async fn text_that_looks_like_markup_is_only_text() {
    let warren = Warren::serve(&[], &[]).await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    page.is("open").await;
    let texts = [
        "<script>document.title = 'broken in'</script>",
        "<img src=x onerror=\"document.title = 'broken in'\">",
        "</div><a href=\"javascript:document.title='broken in'\">&amp;lt;",
    ];
    let mut client = warren.connect().await;
    for text in texts {
        client.send(text).await;
    }
    page.shows(&[texts[2], texts[1], texts[0]]).await;
    page.sends(texts[1]).await;
    page.shows(&[texts[1], texts[2], texts[1], texts[0]]).await;
    assert_eq!(page.value("document.querySelectorAll('#messages :is(img, script, a)').length").await, 0);
    assert_eq!(page.value("document.title").await, "Warren");
    assert_eq!(browser.console().await, [""; 0]);
}

#[tokio::test]
async fn a_window_outlives_its_instance_and_comes_back_by_itself() {
    let cluster = Cluster::shared();
    let env = [("WARREN_BROKER", cluster.url.as_str()), ("WARREN_PREFIX", &cluster.prefix)];
    let port = free_port().to_string();
    let (one, two) = (Warren::serve(&["--port", &port], &env).await, Warren::serve(&[], &env).await);
    one.ready().await;
    two.ready().await;
    let browser = Browser::start().await;
    let (ann, bob) = (browser.open(&one.url()).await, browser.open_another(&two.url()).await);
    ann.is("open").await;
    bob.is("open").await;

    ann.types("half a tho").await;
    one.process.kill().await;
    ann.is("waiting").await;
    let status = ann.text_of("#status").await;
    assert!(status.contains("Reconnecting in") && status.contains("Code 1006"), "{status}");
    ann.presses(Key::Enter).await;
    ann.notices("nothing was sent").await;
    ann.types("ught").await;
    assert_eq!(ann.draft().await, "half a thought");

    let one = Warren::serve(&["--port", &port], &env).await;
    one.ready().await;
    ann.is("open").await;
    assert_eq!(ann.draft().await, "half a thought");
    ann.presses(Key::Enter).await;
    bob.shows(&["half a thought"]).await;
    bob.sends("a whole one").await;
    ann.shows(&["a whole one", "half a thought"]).await;
    let unexpected: Vec<String> =
        browser.console().await.into_iter().filter(|line| !line.contains("WebSocket connection to")).collect();
    assert_eq!(unexpected, [""; 0], "the lost connection and nothing else");
}

#[tokio::test]
async fn a_window_whose_instance_stops_comes_back_when_it_was_asked_to() {
    let port = free_port().to_string();
    let flags = ["--port", &port, "--retry-after-max-ms", "4000"];
    let warren = Warren::serve(&flags, &[]).await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    page.is("open").await;
    // A sign that the network is back must not bring it any sooner.
    page.value(
        "(() => {
            const status = document.getElementById('status');
            window.phases = [];
            new MutationObserver(() => {
                window.phases.push([status.dataset.state, performance.now(), status.textContent]);
                if (status.dataset.state === 'waiting') window.dispatchEvent(new Event('online'));
            }).observe(status, { attributeFilter: ['data-state'] });
        })()",
    )
    .await;

    warren.process.signal(Signal::TERM);
    assert_eq!(warren.process.ended().await.code, Some(0));
    let _restarted = Warren::serve(&flags, &[]).await;
    page.is("open").await;
    let phases: Vec<(String, f64, String)> =
        serde_json::from_value(page.value("window.phases").await).expect("a list of phases");
    let first = |phase: &str| phases.iter().find(|(name, ..)| name == phase).expect("it was in this phase");
    let (_, left, reason) = first("waiting");
    assert!(reason.contains("Code 1001") && reason.contains("the server is stopping"), "{reason}");
    let (_, asked) = reason.split_once("retry-after-ms=").expect("a time to come back");
    let digits: String = asked.chars().take_while(char::is_ascii_digit).collect();
    let asked_ms: f64 = digits.parse().expect("a number");
    // A timer may ring a fraction of a millisecond early.
    let waited_ms = first("connecting").1 - left;
    assert!(waited_ms >= asked_ms - 2.0, "asked for {asked_ms} ms, waited {waited_ms} ms: {phases:?}");
}

#[tokio::test]
async fn a_message_that_the_broker_did_not_take_is_told_and_kept() {
    let node = PrivateNode::start("browser-refused").await;
    let small = ["--spool-messages-max", "1", "--spool-wait-ms", "300"];
    let warren = Warren::serve(&small, &[("WARREN_BROKER", &node.url)]).await;
    warren.ready().await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    page.is("open").await;

    node.kill().await;
    eventually("not ready", || async { get_json(warren.address, "/readyz").await.0 == 503 }).await;
    let mut first = warren.connect().await;
    first.send("first").await;
    first.is_open().await;
    page.sends("is anybody there?").await;
    page.notices("The broker was not taking messages (code 1013)").await;
    assert_eq!(page.draft().await, "is anybody there?");
    assert_eq!(page.messages().await, [""; 0]);

    node.restart().await;
    warren.ready().await;
    page.is("open").await;
    page.shows(&["first"]).await;
    page.presses(Key::Enter).await;
    page.shows(&["is anybody there?", "first"]).await;
}

#[tokio::test]
async fn the_keyboard_alone_will_do() {
    let warren = Warren::serve(&[], &[]).await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    page.is("open").await;

    page.presses(Key::Tab).await;
    assert_eq!(page.focused().await, "text");
    page.types_where_the_focus_is("by hand").await;
    page.presses(Key::Tab).await;
    assert_eq!(page.focused().await, "send");
    let outline = page.value("getComputedStyle(document.activeElement).outlineStyle").await;
    assert_eq!(outline, "solid", "the focus is seen");
    page.presses(Key::Space).await;
    page.shows(&["by hand"]).await;

    page.types("first line").await;
    page.types(&format!("{}{}{}second", char::from(Key::Shift), char::from(Key::Enter), char::from(Key::Null))).await;
    assert_eq!(page.draft().await, "first line\nsecond", "Shift + Enter sends nothing");
    page.presses(Key::Enter).await;
    page.shows(&["first line\nsecond", "by hand"]).await;
}

#[tokio::test]
async fn a_phone_needs_no_scrolling_sideways() {
    let warren = Warren::serve(&["--instance", &"a-long-name.".repeat(10)], &[]).await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    page.is("open").await;
    let unbroken = "wide".repeat(200);
    let mut client = warren.connect().await;
    client.send(unbroken.as_str()).await;
    page.shows(&[&unbroken]).await;
    page.presses(Key::Tab).await;
    page.presses(Key::Enter).await;
    page.notices("nothing to send").await;
    page.joins(&"a-long-word-of-a-topic".repeat(10), 1).await;
    page.clicks(".publish summary").await;
    page.writes("#publish-message", &unbroken).await;
    for width in [320, 390] {
        page.becomes_a_phone(width).await;
        assert_eq!(page.value("innerWidth").await, width, "it is a phone");
        assert_eq!(page.value("document.documentElement.scrollWidth").await, width);
        // Beyond the edge of the page, or of their own box, which cuts them off.
        let too_wide = "[...document.querySelectorAll('body :is(h1, h2, p, code, label, button, textarea, summary, pre, .payload)')] \
            .filter((element) => element.getBoundingClientRect().right > innerWidth \
            || (element.clientWidth > 0 && element.scrollWidth > element.clientWidth && !element.matches('.unseen'))) \
            .map((element) => element.outerHTML)";
        assert_eq!(page.value(too_wide).await, serde_json::json!([]), "at {width} pixels");
    }
}

#[tokio::test]
async fn it_is_dark_for_those_who_prefer_it() {
    let warren = Warren::serve(&[], &[]).await;
    let browser = Browser::start().await;
    let page = browser.open(&warren.url()).await;
    // The sum of red, green and blue.
    let lightness = |property: &str| {
        format!(
            "getComputedStyle(document.body).{property}.match(/\\d+/g).slice(0, 3).reduce((sum, part) => sum + +part, 0)"
        )
    };
    for (scheme, is_dark) in [("light", false), ("dark", true)] {
        page.prefers(scheme).await;
        let ground = page.value(&lightness("backgroundColor")).await.as_u64().expect("a number");
        let ink = page.value(&lightness("color")).await.as_u64().expect("a number");
        assert_eq!(ground < ink, is_dark, "{scheme}: ground {ground}, ink {ink}");
        assert!(ground.abs_diff(ink) > 3 * 128, "{scheme}: ground {ground} and ink {ink} are too much alike");
    }
}
