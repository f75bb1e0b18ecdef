//! `nacre kill`: a signal to a container's first process.

use std::str::FromStr;

use nix::sys::signal::Signal;

use crate::{
    cli::{Global, Kill},
    error::Error,
    id::Id,
    isolation::vm::FORWARDED,
};

use super::store;

pub(super) fn kill(global: &Global, arguments: &Kill) -> Result<u8, Error> {
    let id = Id::new(&arguments.id)?;
    let signal = parse(&arguments.signal).ok_or_else(|| Error::Signal(arguments.signal.clone()))?;
    // The sandbox process passes it on to the guest; SIGKILL ends it, and the guest with it.
    super::signal(&store(global)?, &id, signal)?;
    Ok(0)
}

/// A signal that can be sent, from its number or its name with or without `SIG`.
fn parse(text: &str) -> Option<Signal> {
    let signal = match text.parse::<i32>() {
        Ok(number) => Signal::try_from(number).ok()?,
        Err(_) => {
            let name = text.to_ascii_uppercase();
            let name = name.strip_prefix("SIG").unwrap_or(&name);
            Signal::from_str(&format!("SIG{name}")).ok()?
        }
    };
    (signal == Signal::SIGKILL || FORWARDED.contains(&signal)).then_some(signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for text in ["15", "TERM", "SIGTERM", "term", "sigterm"] {
            assert_eq!(parse(text), Some(Signal::SIGTERM), "{text}");
        }
        assert_eq!(parse("KILL"), Some(Signal::SIGKILL));
    }

    #[test]
    fn what_the_sandbox_process_does_not_pass_on_is_refused() {
        for text in ["", "0", "65", "-1", "STOP", "SEGV", "SIGSIGTERM", "NONE"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
