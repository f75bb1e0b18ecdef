//! Builds and splits netlink messages: a fixed header for their kind, then attributes
//! ([netlink(7)](https://man7.org/linux/man-pages/man7/netlink.7.html)).

/// The size of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;

/// The flags in an attribute's type: nested, and in network byte order.
const TYPE_FLAGS: u16 = 0xc000;

/// A message's payload under construction.
#[derive(Debug, Clone)]
pub struct Message(Vec<u8>);

impl Message {
    /// Starts with this fixed header, for instance a `struct rtmsg`, padded to four bytes.
    pub fn new(header: &[u8]) -> Self {
        let mut bytes = header.to_vec();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        Message(bytes)
    }

    /// Adds an attribute. A value too long for the 16-bit length isn't encoded correctly; no caller
    /// passes one, and the kernel would refuse it.
    pub fn put(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(0);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// Adds an attribute with a number.
    pub fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// Adds an attribute with a string and its NUL.
    pub fn put_name(&mut self, kind: u16, name: &str) {
        self.put(kind, &[name.as_bytes(), b"\0"].concat());
    }

    /// Adds an attribute that nests others.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Message)) {
        let mut inner = Message(Vec::new());
        fill(&mut inner);
        self.put(kind, &inner.0);
    }

    /// Returns the payload so far.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A message from the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Received<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    /// The sequence number of the request that it answers.
    pub(super) sequence: u32,
    pub(super) payload: &'a [u8],
}

/// Returns the first message and what follows it.
pub(super) fn split(messages: &[u8]) -> Option<(Received<'_>, &[u8])> {
    let length = u32::from_ne_bytes(*messages.first_chunk()?) as usize;
    let received = Received {
        kind: u16_at(messages, 4)?,
        flags: u16_at(messages, 6)?,
        sequence: u32::from_ne_bytes(*messages.get(8..)?.first_chunk()?),
        payload: messages.get(HEADER..length)?,
    };
    let next = length.next_multiple_of(4).min(messages.len());
    Some((received, messages.get(next..)?))
}

/// Iterates over attributes with their types, as far as they are well formed.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & !TYPE_FLAGS;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Returns the attribute of this type among `bytes`.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(k, _)| *k == kind).map(|(_, v)| v)
}

/// Returns the attribute of this type, as a number.
pub fn number(bytes: &[u8], kind: u16) -> Option<u32> {
    u32_at(attribute(bytes, kind)?, 0)
}

/// Returns the attribute of this type, as a string.
pub(super) fn text(bytes: &[u8], kind: u16) -> Option<String> {
    let value = attribute(bytes, kind)?;
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8(value.get(..end)?.to_vec()).ok()
}

pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    let bytes = bytes.get(offset..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*bytes))
}

/// Returns the number at an offset, unless it extends beyond the end.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_short_is_no_message() {
        assert_eq!(split(&[]), None);
        assert_eq!(split(&[200, 0, 0, 0, 1, 0, 0, 0]), None);
        assert_eq!(split(&[3, 0, 0, 0, 1, 0, 0, 0]), None);
        assert_eq!(attributes(&[8, 0, 1, 0, 5]).next(), None);
        assert_eq!(attributes(&[0, 0, 1, 0]).next(), None);
        let found: Vec<_> = attributes(&[5, 0, 1, 0, 7, 0, 0, 0, 4, 0, 2, 0]).collect();
        assert_eq!(found, [(1, &[7][..]), (2, &[])]);
    }

    #[test]
    fn attributes_are_read_as_they_are_written() {
        let mut message = Message::new(&[9]);
        message.put_name(1, "eth0");
        message.nest(2 | TYPE_FLAGS, |inner| inner.put_u32(3, 70_000));
        let attributes = &message.bytes()[4..];
        assert_eq!(text(attributes, 1).as_deref(), Some("eth0"));
        assert_eq!(number(attribute(attributes, 2).unwrap(), 3), Some(70_000));
        assert_eq!(attribute(attributes, 4), None);
    }
}
