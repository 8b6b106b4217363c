//! A batch of one record (format 2).

use super::super::Message;

const NO_PRODUCER: i64 = -1;
const MAGIC: u8 = 2;

/// The batch as it is written into the log.
pub(super) fn batch(message: &Message<'_>) -> Vec<u8> {
    let at = i64::try_from(message.accepted_at.0).unwrap_or(i64::MAX);
    // From the attributes on: what the checksum is of.
    let mut rest = Vec::with_capacity(message.body().len() + 1024);
    rest.extend_from_slice(&0_i16.to_be_bytes());
    rest.extend_from_slice(&0_i32.to_be_bytes());
    rest.extend_from_slice(&at.to_be_bytes());
    rest.extend_from_slice(&at.to_be_bytes());
    rest.extend_from_slice(&NO_PRODUCER.to_be_bytes());
    rest.extend_from_slice(&(-1_i16).to_be_bytes());
    rest.extend_from_slice(&(-1_i32).to_be_bytes());
    rest.extend_from_slice(&1_i32.to_be_bytes());
    let record = record(message);
    varint(&mut rest, record.len());
    rest.extend_from_slice(&record);

    let mut batch = Vec::with_capacity(rest.len() + 21);
    batch.extend_from_slice(&0_i64.to_be_bytes());
    // Leader's epoch, magic and checksum count towards the length.
    batch.extend_from_slice(&i32::try_from(rest.len() + 9).unwrap_or(i32::MAX).to_be_bytes());
    batch.extend_from_slice(&(-1_i32).to_be_bytes());
    batch.push(MAGIC);
    batch.extend_from_slice(&crc32c(&rest).to_be_bytes());
    batch.extend_from_slice(&rest);
    batch
}

fn record(message: &Message<'_>) -> Vec<u8> {
    let mut record = Vec::with_capacity(message.body().len() + 1024);
    // Attributes, and how far time and offset are from the batch's.
    record.extend_from_slice(&[0, 0, 0]);
    let part = |into: &mut Vec<u8>, bytes: &[u8]| {
        varint(into, bytes.len());
        into.extend_from_slice(bytes);
    };
    part(&mut record, message.id.as_bytes());
    part(&mut record, message.body());
    let event = ("tidegate-event", message.event.as_bytes());
    varint(&mut record, message.headers().count() + 1);
    for (name, value) in message.headers().chain([event]) {
        part(&mut record, name.as_bytes());
        part(&mut record, value);
    }
    record
}

/// A number that is not negative, zigzagged: seven bits a byte, the lowest first.
fn varint(into: &mut Vec<u8>, value: usize) {
    let mut rest = (value as u64) << 1;
    while rest >= 0x80 {
        into.push(u8::try_from(rest & 0x7f).unwrap_or_default() | 0x80);
        rest >>= 7;
    }
    into.push(u8::try_from(rest).unwrap_or_default());
}

/// CRC-32C (RFC 3720, appendix B.4).
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| CRC_TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)] ^ (crc >> 8))
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_rfc() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn numbers_are_written_in_as_few_bytes_as_they_need() {
        for (value, bytes) in [(0, &[0][..]), (1, &[2]), (63, &[126]), (64, &[0x80, 1]), (300, &[0xd8, 4])] {
            let mut written = Vec::new();
            varint(&mut written, value);
            assert_eq!(written, bytes);
        }
    }
}
