//! The result as one page of HTML that loads nothing from elsewhere.

mod chart;
mod text;

pub(super) use text::page;
