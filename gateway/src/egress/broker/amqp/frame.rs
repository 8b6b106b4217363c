//! Frames and the values in them. Tables that come in are never looked into.

use bytes::{Buf, Bytes};

use super::super::super::fault::Fault;
use super::super::link::Link;

/// Bytes of a frame, its own eight included; a server may ask for less.
pub(super) const MAX_FRAME: usize = 128 * 1024;

const METHOD: u8 = 1;
pub(super) const HEADER: u8 = 2;
pub(super) const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const END: u8 = 0xce;

/// A class and a method of it.
pub(super) type Method = (u16, u16);

pub(super) enum Frame {
    Method(Method, Arguments),
    /// A part of a message that comes back, or a heartbeat.
    Other,
}

/// A method's arguments, taken from the front.
pub(super) struct Arguments(Bytes);

impl Arguments {
    pub(super) fn u16(&mut self) -> Result<u16, Fault> {
        self.0.try_get_u16().map_err(|_| SHORT)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        self.0.try_get_u32().map_err(|_| SHORT)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Fault> {
        self.0.try_get_u64().map_err(|_| SHORT)
    }

    /// A text of up to 255 bytes.
    pub(super) fn short(&mut self) -> Result<Bytes, Fault> {
        let length = usize::from(self.0.try_get_u8().map_err(|_| SHORT)?);
        if length > self.0.len() { Err(SHORT) } else { Ok(self.0.split_to(length)) }
    }
}

const SHORT: Fault = Fault::BadReply("a method's arguments end too early");

pub(super) async fn read_frame(link: &mut Link, max: usize) -> Result<Frame, Fault> {
    let mut head = link.exactly(7, 7).await?;
    let kind = head.get_u8();
    // Instead of a frame: the version of the protocol that the server speaks.
    if kind == b'A' {
        return Err(Fault::BadReply("the server speaks another version of AMQP"));
    }
    let _channel = head.get_u16();
    let length = head.get_u32();
    let frame = if kind == METHOD {
        let mut payload = link.exactly(length as usize, max).await?;
        let name = (payload.try_get_u16().map_err(|_| SHORT)?, payload.try_get_u16().map_err(|_| SHORT)?);
        Frame::Method(name, Arguments(payload))
    } else if matches!(kind, HEADER | BODY | HEARTBEAT) {
        link.skip(u64::from(length)).await?;
        Frame::Other
    } else {
        return Err(Fault::BadReply("it is not AMQP"));
    };
    match link.exactly(1, 1).await?[..] {
        [END] => Ok(frame),
        _ => Err(Fault::BadReply("a frame does not end where it should")),
    }
}

pub(super) fn write_frame(into: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    into.push(kind);
    into.extend_from_slice(&channel.to_be_bytes());
    into.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    into.extend_from_slice(payload);
    into.push(END);
}

pub(super) fn method(channel: u16, (class, number): Method, arguments: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(arguments.len() + 12);
    let payload = [&class.to_be_bytes()[..], &number.to_be_bytes(), arguments].concat();
    write_frame(&mut bytes, METHOD, channel, &payload);
    bytes
}

/// A text of up to 255 bytes; a configuration with a longer one is refused.
pub(super) fn short(text: &str) -> Vec<u8> {
    octets(text.as_bytes())
}

pub(super) fn octets(bytes: &[u8]) -> Vec<u8> {
    let bytes = &bytes[..bytes.len().min(255)];
    [&[u8::try_from(bytes.len()).unwrap_or(u8::MAX)], bytes].concat()
}

pub(super) fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes(), bytes].concat()
}

/// A table of entries that are written already.
pub(super) fn table(entries: &[u8]) -> Vec<u8> {
    long(entries)
}
