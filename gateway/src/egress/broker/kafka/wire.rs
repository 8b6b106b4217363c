//! Kafka's values, of the versions before the compact ones.

use bytes::{Buf, Bytes};

use super::super::super::fault::Fault;

const SHORT: Fault = Fault::BadReply("an answer ends too early");

#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn i16(&mut self, value: i16) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.nullable_text(Some(text));
    }

    pub(super) fn nullable_text(&mut self, text: Option<&str>) {
        // Topics and mechanisms are far shorter.
        self.i16(text.map_or(-1, |text| i16::try_from(text.len()).unwrap_or(i16::MAX)));
        self.0.extend_from_slice(text.unwrap_or_default().as_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl AsRef<[u8]> for Writer {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

pub(super) struct Reader(Bytes);

impl Reader {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self(bytes)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Fault> {
        self.0.try_get_u8().map_err(|_| SHORT)
    }

    pub(super) fn i16(&mut self) -> Result<i16, Fault> {
        self.0.try_get_i16().map_err(|_| SHORT)
    }

    pub(super) fn i32(&mut self) -> Result<i32, Fault> {
        self.0.try_get_i32().map_err(|_| SHORT)
    }

    pub(super) fn i64(&mut self) -> Result<i64, Fault> {
        self.0.try_get_i64().map_err(|_| SHORT)
    }

    /// Of an array. No room is made for what is not there: each element is at least a byte.
    pub(super) fn count(&mut self) -> Result<usize, Fault> {
        let count = usize::try_from(self.i32()?).unwrap_or(0);
        if count > self.0.len() { Err(SHORT) } else { Ok(count) }
    }

    pub(super) fn text(&mut self) -> Result<String, Fault> {
        Ok(self.nullable_text()?.unwrap_or_default())
    }

    pub(super) fn nullable_text(&mut self) -> Result<Option<String>, Fault> {
        let Ok(length) = usize::try_from(self.i16()?) else { return Ok(None) };
        let text = self.take(length)?;
        String::from_utf8(text.to_vec()).map(Some).map_err(|_| Fault::BadReply("a text is not UTF-8"))
    }

    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, Fault> {
        let length = usize::try_from(self.i32()?).unwrap_or(0);
        Ok(self.take(length)?.to_vec())
    }

    pub(super) fn skip(&mut self, length: usize) -> Result<(), Fault> {
        self.take(length).map(drop)
    }

    fn take(&mut self, length: usize) -> Result<Bytes, Fault> {
        if length > self.0.len() { Err(SHORT) } else { Ok(self.0.split_to(length)) }
    }
}
