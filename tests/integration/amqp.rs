//! Programs of others publish to RabbitMQ by themselves: the examples of `docs/amqp.md`, as they stand there.

use tokio::process::Command;
use warren::broker::Delivery;
use warren::config::Config;
use warren::topic::Topic;

use crate::support::broker::{Cluster, PrivateNode};
use crate::support::examples::{documented, documented_keys, python, run};
use crate::support::instance::{Instance, config};

/// The name has characters beyond ASCII, by which ways to compute a key could differ.
const TOPIC: &str = "bestellungen.größe";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_python_program_publishes_by_either_entrance_comes_once_on_each_instance() {
    // The example has the default prefix, so it gets a broker of its own.
    let node = PrivateNode::start("amqp-python").await;
    for delivery in [Delivery::Queue, Delivery::Stream] {
        let cluster = Cluster { url: node.url.clone(), prefix: "warren".to_owned() };
        let mut sessions = Vec::new();
        let instances = [0, 1].map(async |_| Instance::join(Config { delivery, ..config() }, &cluster).await);
        let instances = futures_util::future::join_all(instances).await;
        for instance in &instances {
            sessions.push(instance.subscribe(TOPIC).await);
            sessions.push(instance.subscribe("bestellungen.*").await);
        }
        let mut interpreter = Command::new(python().await);
        interpreter.env("AMQP_URL", &node.url);
        let printed = run(interpreter, &documented("python"), &format!("{delivery}.py"), &[TOPIC, "shipped"]).await;
        assert_eq!(printed, Topic::parse(TOPIC).expect("a topic").key().to_string());
        for session in &mut sessions {
            let mut heard = [session.receive_text().await, session.receive_text().await];
            heard.sort();
            assert_eq!(heard, ["shipped, the filtered way", "shipped, the plain way"]);
        }
        // By both entrances once more: whatever else might have come would come before.
        let mut interpreter = Command::new(python().await);
        interpreter.env("AMQP_URL", &node.url);
        run(interpreter, &documented("python"), &format!("{delivery}.py"), &[TOPIC, "last"]).await;
        for session in &mut sessions {
            let mut heard = [session.receive_text().await, session.receive_text().await];
            heard.sort();
            assert_eq!(heard, ["last, the filtered way", "last, the plain way"]);
        }
    }
}

#[test]
fn the_documented_keys_are_right() {
    let keys = documented_keys();
    assert!(keys.len() >= 3);
    for (topic, key) in keys {
        assert_eq!(Topic::parse(&topic).expect("a topic").key().to_string(), key, "{topic}");
    }
}

/// Where the language is installed; Python is always asked, above.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_documented_way_to_a_key_gives_it() {
    for (interpreter, language, file) in [("java", "java", "Key.java"), ("node", "javascript", "key.js")] {
        let is_here = Command::new(interpreter).arg("--version").output().await.is_ok();
        let program = documented(language);
        for (topic, key) in documented_keys().into_iter().filter(|_| is_here) {
            assert_eq!(run(Command::new(interpreter), &program, file, &[&topic]).await, key, "{language}: {topic}");
        }
    }
}
