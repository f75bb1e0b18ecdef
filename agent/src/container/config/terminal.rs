//! Parses `process.consoleSize`.

use oci_spec::runtime::Process;
use rustix::termios::Winsize;

use super::error::ConfigError;

/// Returns `process.consoleSize`, which has no meaning without a terminal.
pub(crate) fn size(process: &Process) -> Option<Winsize> {
    let size = process.console_size()?;
    Some(Winsize {
        ws_row: u16::try_from(size.height()).ok()?,
        ws_col: u16::try_from(size.width()).ok()?,
        ws_xpixel: 0,
        ws_ypixel: 0,
    })
}

/// Checks that `process.consoleSize` fits the kernel's fields.
pub(crate) fn validate(process: &Process) -> Result<(), ConfigError> {
    let Some(size) = process.console_size() else {
        return Ok(());
    };
    for (field, value) in [("height", size.height()), ("width", size.width())] {
        if process.terminal() == Some(true) && u16::try_from(value).is_err() {
            return Err(ConfigError::invalid(
                format!("process.consoleSize.{field}"),
                format!("{value} is over {}", u16::MAX),
            ));
        }
    }
    Ok(())
}
