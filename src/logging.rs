//! Where log lines go, and what never gets into one.

/// Log lines go to standard error. An error is logged once, by whoever handles it, so the AMQP library's own lines
/// are off unless the filter names them.
pub fn start(filter: &str) {
    let logger = env_logger::Builder::new()
        .filter_module("lapin", log::LevelFilter::Off)
        .filter_module("tracing", log::LevelFilter::Off)
        .parse_filters(filter)
        .build();
    log::set_max_level(logger.filter());
    log::set_boxed_logger(Box::new(Discreet(logger))).expect("no log was started before");
}

/// Keeps out what libraries say at the level trace, whatever the filter names: lapin writes whole frames there, with
/// the password of the login and the payload of each message.
struct Discreet(env_logger::Logger);

impl Discreet {
    fn may_tell(metadata: &log::Metadata<'_>) -> bool {
        metadata.level() < log::Level::Trace || metadata.target().split("::").next() == Some("warren")
    }
}

impl log::Log for Discreet {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        Discreet::may_tell(metadata) && self.0.enabled(metadata)
    }

    fn log(&self, record: &log::Record<'_>) {
        if Discreet::may_tell(record.metadata()) {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}
