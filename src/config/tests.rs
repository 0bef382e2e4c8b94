//! What a user meets: which source wins, what is refused and how, what is printed, and that no password gets out.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::options::{config_row, rows};
use super::{AllowedOrigins, BrokerChoice, Command, Config, Exit, from_args, markdown, sample};
use crate::session::SlowReader;

/// The password in every URI here; it must turn up nowhere.
const PASSWORD: &str = "s3same";

/// Runs `warren` with arguments separated by spaces.
fn run(args: &str, env: &[(&str, &str)]) -> Result<Command, Exit> {
    let args = ["warren"].into_iter().chain(args.split_whitespace()).map(OsString::from);
    from_args(args, env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))))
}

fn config_of(args: &str, env: &[(&str, &str)]) -> Config {
    match run(args, env) {
        Ok(Command::Serve { config, stops_with_stdin: false }) => *config,
        other => panic!("{args:?} does not serve: {other:?}"),
    }
}

/// The one line to standard error, without its beginning.
fn error_of(args: &str, env: &[(&str, &str)]) -> String {
    let exit = run(args, env).expect_err("the arguments are wrong");
    assert_eq!((exit.to_stdout, exit.code), (false, 2), "{exit:?}");
    let line = exit.text.strip_prefix("error: ").and_then(|rest| rest.strip_suffix('\n'));
    let line = line.expect("an error begins with its kind and ends with a newline");
    assert!(!line.contains('\n') && !line.contains(PASSWORD), "{line}");
    line.to_owned()
}

fn answer_of(args: &str) -> String {
    let exit = run(args, &[("WARREN_BROKER", "amqp://ann:s3same@mq")]).expect_err("it answers and ends");
    assert_eq!((exit.to_stdout, exit.code), (true, 0), "{exit:?}");
    exit.text
}

/// A file that is gone after the test.
struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn new(text: &str) -> TemporaryFile {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("warren-config-{}-{}.toml", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let file = TemporaryFile(std::env::temp_dir().join(name));
        fs::write(&file.0, text).expect("the temporary directory takes files");
        file
    }

    fn path(&self) -> String {
        self.0.display().to_string()
    }

    fn flag(&self) -> String {
        format!("--config {}", self.path())
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The error about a file with this text, its name replaced by FILE.
fn error_of_file(text: &str) -> String {
    let file = TemporaryFile::new(text);
    error_of(&file.flag(), &[]).replace(&file.path(), "FILE")
}

#[test]
fn nothing_said_gives_the_defaults_with_and_without_the_command() {
    assert_eq!(config_of("", &[]), Config::default());
    assert_eq!(config_of("serve", &[]), Config::default());
    let defaults = Config::default();
    assert_eq!((defaults.port, defaults.broker), (8080, BrokerChoice::Memory));
    assert_eq!((defaults.message_bytes_max, defaults.outbox_bytes_max), (64 << 10, 1 << 20));
    assert_eq!((defaults.allowed_origins, defaults.instance), (AllowedOrigins::SameOrigin, None));
}

#[test]
fn a_flag_wins_over_the_environment_it_over_the_file_and_the_file_over_the_default() {
    let file = TemporaryFile::new("port = 1\nhost = \"::1\"\nsessions_max = 7");
    let config = config_of(&format!("serve {} --port 3", file.flag()), &[("WARREN_PORT", "2"), ("WARREN_HOST", "::")]);
    assert_eq!((config.port, config.host.to_string().as_str(), config.sessions_max), (3, "::", 7));
    assert_eq!(config.worker_threads, Config::default().worker_threads);
}

#[test]
fn the_file_is_named_by_the_flag_or_else_by_the_variable() {
    let (flag, variable) = (TemporaryFile::new("port = 1"), TemporaryFile::new("port = 2"));
    let env = [("WARREN_CONFIG", &*variable.path())];
    assert_eq!(config_of("", &env).port, 2);
    assert_eq!(config_of(&flag.flag(), &env).port, 1);
    assert_eq!(config_of("", &[("WARREN_CONFIG", "")]).port, 8080);
}

#[test]
fn a_list_is_separated_by_commas_repeated_or_an_array() {
    let written = "https://a.example,https://b.example";
    let expected = config_of("", &[("WARREN_ALLOWED_ORIGINS", written)]).allowed_origins;
    assert!(matches!(&expected, AllowedOrigins::Listed(origins) if origins.len() == 2));
    let repeated = "--allowed-origins https://a.example --allowed-origins https://b.example";
    assert_eq!(config_of(repeated, &[]).allowed_origins, expected);
    for toml in [format!("{written:?}"), "[\"https://a.example\", \"https://b.example\"]".to_owned()] {
        let file = TemporaryFile::new(&format!("allowed_origins = {toml}"));
        assert_eq!(config_of(&file.flag(), &[]).allowed_origins, expected);
    }
}

#[test]
fn an_empty_value_takes_back_what_the_file_says() {
    let file = TemporaryFile::new("instance = \"a\"\nallowed_origins = \"*\"");
    let flags = file.flag();
    assert_eq!(config_of(&flags, &[]).instance.map(|name| name.to_string()).as_deref(), Some("a"));
    let config = config_of(&flags, &[("WARREN_INSTANCE", ""), ("WARREN_ALLOWED_ORIGINS", "")]);
    assert_eq!((config.instance, config.allowed_origins), (None, AllowedOrigins::SameOrigin));
}

#[test]
fn a_switch_needs_no_value_and_takes_one() {
    assert!(config_of("--answer-keep-alive", &[]).answer_keep_alive);
    let env = [("WARREN_ANSWER_KEEP_ALIVE", "true")];
    assert!(config_of("", &env).answer_keep_alive);
    assert!(!config_of("--answer-keep-alive=false", &env).answer_keep_alive);
}

#[test]
fn bytes_take_a_unit_in_every_source() {
    let file = TemporaryFile::new("message_bytes_max = 2048\noutbox_bytes_max = \"2 MiB\"");
    let config = config_of(&format!("{} --broker-queue-bytes-max 1GiB", file.flag()), &[]);
    assert_eq!((config.message_bytes_max, config.outbox_bytes_max), (2048, 2 << 20));
    assert_eq!(config.broker_queue_bytes_max, 1 << 30);
}

#[test]
fn a_wrong_flag_is_named_in_one_line() {
    let cases = [
        ("--prot 1", "unexpected argument '--prot' found; did you mean --port?"),
        ("--port", "a value is required for '--port <PORT>' but none was supplied"),
        ("--port 1 --port 2", "the argument '--port <PORT>' cannot be used multiple times"),
        ("serv", "unrecognized subcommand 'serv'; did you mean serve?"),
        ("--port 1 serve", "the subcommand 'serve' cannot be used with '--port <PORT>'"),
        ("config --port 1", "unexpected argument '--port' found"),
        ("--port 65536", "--port: \"65536\" is not allowed; expected a whole number from 0 to 65535"),
        ("--port -1", "--port: \"-1\" is not allowed; expected a whole number from 0 to 65535"),
        ("--host here", "--host: \"here\" is not allowed; expected an IP address"),
        ("--answer-keep-alive=yes", "--answer-keep-alive: \"yes\" is not allowed; expected true or false"),
        (
            "--message-bytes-max 17MiB",
            "--message-bytes-max: \"17MiB\" is not allowed; expected a number of bytes from 1 to 16 MiB, such as 65536 \
             or \"64 KiB\" (KiB, MiB, GiB)",
        ),
        (
            "--log infoo",
            "--log: \"infoo\" is not allowed (\"infoo\" is neither a level nor target=level); expected off, error, \
             warn, info, debug or trace, or directives such as info,lapin=warn",
        ),
        (
            "--prefix amq.x",
            "--prefix: \"amq.x\" is not allowed (RabbitMQ reserves names that begin with amq.); expected 1 to 64 of \
             A-Z a-z 0-9 _ . -",
        ),
        ("--instance a/b", "--instance: \"a/b\" is not allowed; expected 1 to 128 of A-Z a-z 0-9 _ . : -"),
        (
            "--allowed-origins a.example",
            "--allowed-origins: \"a.example\" is not allowed (\"a.example\" is not scheme://host[:port]); expected \
             origins scheme://host[:port] separated by commas, or * for any",
        ),
        (
            "--trusted-proxies 10.0.0.0/33",
            "--trusted-proxies: \"10.0.0.0/33\" is not allowed (\"10.0.0.0/33\" is neither an address nor a network); \
             expected IP addresses or networks such as 10.0.0.0/8, separated by commas",
        ),
    ];
    for (args, line) in cases {
        assert_eq!(error_of(args, &[]), line, "{args}");
    }
}

#[test]
fn a_wrong_variable_is_named_in_one_line() {
    let cases = [
        ("WARREN_PROT", "1", "unknown environment variable WARREN_PROT; did you mean WARREN_PORT?"),
        ("WARREN_PORT", "", "WARREN_PORT: \"\" is not allowed; expected a whole number from 0 to 65535"),
        (
            "WARREN_CONFIG",
            "/no/such",
            "WARREN_CONFIG: cannot read \"/no/such\": No such file or directory (os error 2)",
        ),
    ];
    for (name, value, line) in cases {
        assert_eq!(error_of("", &[(name, value)]), line);
    }
}

#[test]
fn a_wrong_file_is_named_in_one_line() {
    let cases = [
        ("prot = 1", "FILE: unknown key \"prot\"; did you mean port?"),
        ("[zebra]", "FILE: unknown key \"zebra\""),
        (
            "port = \"80\"",
            "FILE:port: \"80\" is not allowed (its type is string, it must be an integer); expected a whole number \
             from 0 to 65535",
        ),
        (
            "answer_keep_alive = 1",
            "FILE:answer_keep_alive: 1 is not allowed (its type is integer, it must be a boolean); expected true or \
             false",
        ),
        (
            "host.a = 1",
            "FILE:host: {…} is not allowed (its type is table, it must be a string); expected an IP address",
        ),
        ("port = -1", "FILE:port: -1 is not allowed; expected a whole number from 0 to 65535"),
        (
            "\nhost = ::1",
            "FILE, line 2, column 8: not valid TOML: string values must be quoted, expected literal string",
        ),
    ];
    for (text, line) in cases {
        assert_eq!(error_of_file(text), line);
    }
}

#[test]
fn a_value_is_checked_even_where_another_source_overrides_it() {
    let line = "WARREN_PORT: \"x\" is not allowed; expected a whole number from 0 to 65535";
    assert_eq!(error_of("--port 1", &[("WARREN_PORT", "x")]), line);
}

#[cfg(unix)]
#[test]
fn bytes_that_are_no_text_are_refused() {
    use std::os::unix::ffi::OsStringExt;
    let args = ["warren".into(), "--log".into(), OsString::from_vec(vec![0xff])];
    let exit = from_args(args, std::iter::empty()).expect_err("not UTF-8");
    assert_eq!(exit.text, "error: --log: the value is not valid UTF-8\n");
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    let pem = TemporaryFile::new("no certificate");
    let ca_file = format!("--broker-ca-file {}", pem.path());
    let cases = [
        (
            "--ping-interval-ms 75000",
            "--ping-interval-ms: 75000 is not allowed (every quiet session would be closed as idle); expected less \
             than 75000, the default of --idle-timeout-ms",
        ),
        (
            "--message-bytes-max 1MiB",
            "the default of --outbox-bytes-max: 1048576 is not allowed (it holds no message of the largest size); \
             expected at least 1048590, --message-bytes-max and 14 for the frame's header",
        ),
        (
            "--drain-delay-ms 10000",
            "--drain-delay-ms: 10000 is not allowed (no time would be left to close the sessions); expected less than \
             10000, the default of --drain-timeout-ms",
        ),
        (
            "--prefix shop --instance shop.direct",
            "--instance: \"shop.direct\" is not allowed (exchanges of RabbitMQ and of the whole cluster are called \
             so); expected a name that begins with neither amq. nor shop., nor ends with .broadcast or .direct",
        ),
        (
            "--broker amqp://mq --broker-ca-file x",
            "--broker-ca-file: \"x\" is of no use, as --broker names no amqps:// URI",
        ),
        (
            "--broker amqps://mq --broker-ca-file /no/such",
            "--broker-ca-file: cannot read \"/no/such\": No such file or directory (os error 2)",
        ),
        (
            &format!("--broker amqps://mq {ca_file}"),
            &format!("--broker-ca-file: {:?} is not allowed; expected a file with a certificate in PEM", pem.path()),
        ),
        (
            "--api-keys-file /no/such",
            "--api-keys-file: cannot read \"/no/such\": No such file or directory (os error 2)",
        ),
        (
            &format!("--api-keys-file {}", pem.path()),
            &format!(
                "--api-keys-file: {:?} is not allowed (line 1 is not a name and 64 hexadecimal digits); expected a file \
                 with lines of a name and the SHA-256 of a key",
                pem.path()
            ),
        ),
    ];
    for (args, line) in cases {
        assert_eq!(error_of(args, &[]), line, "{args}");
    }
    assert_eq!(config_of("--message-bytes-max 1MiB --outbox-bytes-max 1048590", &[]).outbox_bytes_max, 1048590);
    assert_eq!(config_of("--drain-timeout-ms 0", &[]).drain_delay_ms, 0);
}

#[test]
fn slow_readers_are_treated_in_one_of_two_ways() {
    assert_eq!(config_of("", &[]).slow_reader, SlowReader::Disconnect);
    for policy in [SlowReader::Disconnect, SlowReader::DropOldest] {
        assert_eq!(config_of(&format!("--slow-reader {policy}"), &[]).slow_reader, policy);
    }
    let line = "--slow-reader: \"drop\" is not allowed (neither disconnect nor drop-oldest); expected disconnect or \
                drop-oldest";
    assert_eq!(error_of("--slow-reader drop", &[]), line);
}

#[test]
fn a_certificate_authority_is_taken_with_tls() {
    let pem = TemporaryFile::new("-----BEGIN CERTIFICATE-----\n");
    let config = config_of(&format!("--broker amqps://mq --broker-ca-file {}", pem.path()), &[]);
    assert_eq!(config.broker_ca_file.as_ref(), Some(&pem.0));
}

#[test]
fn brokers_are_uris_tried_in_turn() {
    let config = config_of("--broker amqp://ann:s3same@a/shop,amqps://b", &[]);
    let BrokerChoice::Amqp(uris) = &config.broker else { panic!("{config:?}") };
    let exposed: Vec<&str> = uris.iter().map(|uri| uri.expose()).collect();
    assert_eq!(exposed, ["amqp://ann:s3same@a/shop", "amqps://b"]);
    let debug = format!("{config:?}");
    assert!(debug.contains("amqp://ann:***@a/shop") && !debug.contains(PASSWORD), "{debug}");
}

#[test]
fn no_error_shows_a_password() {
    let expected =
        "expected memory, or URIs amqp[s]://[user:password@]host[:port][/vhost], several separated by commas";
    let cases = [
        ("amqp://ann:s3same@", "not a URI: empty host"),
        ("amqp://ann:s3same/x@mq", "not a URI: invalid port number"),
        ("ann:s3same@mq", "the scheme is neither amqp nor amqps"),
        ("amqp://mq,amqp://ann:s3same@mq:x", "URI 2 of 2: not a URI: invalid port number"),
        ("memory,amqp://ann:s3same@mq", "memory stands alone"),
        ("", "it is empty"),
    ];
    for (value, why) in cases {
        let line = error_of("", &[("WARREN_BROKER", value)]);
        assert_eq!(line, format!("WARREN_BROKER: the value (hidden) is not allowed ({why}); {expected}"));
    }
    let of_type = "its type is array, it must be a string or an array of strings";
    assert_eq!(
        error_of_file("broker = [\"amqp://ann:s3same@mq\", 1]"),
        format!("FILE:broker: the value (hidden) is not allowed ({of_type}); {expected}")
    );
}

#[test]
fn no_password_is_shown_where_it_does_not_belong_either() {
    let uri = "amqp://ann:s3same@mq";
    for args in ["{}", "serve {}", "--brokr={}", "--brokr {}", "serve --port={}", "--allowed-origins {}", "--log {}"] {
        error_of(&args.replace("{}", uri), &[]);
    }
    error_of("", &[("WARREN_BROKER_URI", uri)]);
    for text in ["broker_uri = {}", "broker = {} x", "broker = {}\nbroker = {}", "port = {}", "log = [{}]", "[{}]\na"] {
        error_of_file(&text.replace("{}", &format!("{uri:?}")));
    }
    error_of_file(&format!("broker = {uri}"));
    error_of_file(&format!("broker = \"{uri}"));
}

#[test]
fn help_shows_every_option_with_default_and_variable_but_no_value_of_the_environment() {
    for args in ["--help", "-h", "help", "serve --help", "help serve"] {
        let help = answer_of(args);
        assert!(!help.contains(PASSWORD));
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for row in rows().into_iter().chain([config_row()]) {
            let tail = format!("{} [default: {}] [env: {}]", row.help, row.default_shown(), row.variable());
            assert!(help.contains(&row.flag()) && help.contains(&tail), "{}", row.name);
        }
        for heading in ["Listening:", "Broker:", "Access:", "Publishing:", "Sessions:", "Process:"] {
            assert!(help.contains(heading), "{heading}");
        }
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    assert_eq!(answer_of("--version"), format!("warren {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn sample_and_markdown_are_commands_that_need_no_valid_environment() {
    let env = [("WARREN_PORT", "x")];
    assert_eq!(run("config", &env), Ok(Command::PrintSample));
    assert_eq!(run("config --markdown", &env), Ok(Command::PrintMarkdown));
}

#[test]
fn the_committed_sample_is_the_generated_one() {
    let committed = include_str!("../../warren.sample.toml");
    assert!(committed == sample(), "warren.sample.toml is old: run `warren config > warren.sample.toml`");
}

#[test]
fn the_committed_documentation_is_the_generated_one() {
    let committed = include_str!("../../docs/options.md");
    let remedy = "docs/options.md is old: `warren config --markdown` behind its first two lines";
    assert!(committed.strip_prefix("# Options\n\n") == Some(&markdown()), "{remedy}");
}

#[test]
fn the_sample_changes_nothing_as_it_is_and_states_the_defaults() {
    let untouched = TemporaryFile::new(&sample());
    assert_eq!(config_of(&untouched.flag(), &[]), Config::default());

    let lines: Vec<String> = sample().lines().filter_map(|line| line.strip_prefix("# ").map(str::to_owned)).collect();
    assert_eq!(lines.len(), rows().len());
    for (line, row) in lines.iter().zip(rows()) {
        assert!(line.starts_with(&format!("{} = ", row.name)), "{line}");
    }
    let uncommented = TemporaryFile::new(&lines.join("\n"));
    assert_eq!(config_of(&uncommented.flag(), &[]), Config::default());
}

#[test]
fn markdown_has_a_row_for_every_option() {
    let markdown = markdown();
    for row in rows().into_iter().chain([config_row()]) {
        assert!(markdown.contains(&format!("\n| `{}`<br>`{}` | ", row.flag(), row.variable())), "{}", row.name);
    }
    // Four columns have five bars; those in a cell are escaped.
    let is_row = |line: &&str| line.starts_with('|');
    assert!(markdown.lines().filter(is_row).all(|line| line.replace("\\|", "").matches('|').count() == 5));
}

#[test]
fn the_rows_of_a_heading_stand_together_and_every_text_is_a_sentence() {
    let headings: Vec<&str> = rows().chunk_by(|a, b| a.heading == b.heading).map(|group| group[0].heading).collect();
    assert_eq!(headings, ["Listening", "Broker", "Access", "Identity", "Publishing", "Sessions", "Users", "Process"]);
    for row in rows() {
        assert!(row.help.ends_with('.') && row.reason.ends_with('.'), "{}", row.name);
    }
}
