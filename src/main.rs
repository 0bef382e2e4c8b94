//! The `warren` command.
#![forbid(unsafe_code)]

fn main() {}
