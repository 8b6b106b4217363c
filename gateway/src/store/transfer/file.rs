//! The file of an export.
//!
//! ```text
//! "tidegate export\n"
//! frame: header (JSON)
//! frame: item (postcard), as many as there are
//! an empty frame
//! frame: trailer (JSON): counts, and SHA-256 of every byte before this frame
//! ```
//! A frame is its length (4 bytes, big endian) and so many bytes, at most [`MAX_FRAME`]. Nothing stands behind the trailer. What is cut or
//! changed is found at the latest at the trailer: nothing that was read counts before [`Reader::next`] has said that it was the last.

use std::io::{self, ErrorKind, Read, Write};

use ring::digest::{Context, SHA256};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Counts, Item};
use crate::clock::Timestamp;
use crate::event::Revision;

/// The version of the format that this release writes, and the newest that it reads.
pub const FORMAT: u8 = 1;
/// The longest frame: far longer than the largest component or request that a gateway takes.
pub const MAX_FRAME: usize = 512 << 20;

const MAGIC: &[u8] = b"tidegate export\n";

/// What a file says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The version of the format.
    pub format: u8,
    /// The release that wrote it.
    pub release: String,
    /// When it was begun.
    pub created_at: Timestamp,
    /// The engine that it was read from: `embedded` or `redis`.
    pub store: String,
    /// How many shards there were: the store that it goes into needs as many.
    pub shards: u16,
    /// The configuration's revision.
    pub revision: Revision,
    /// The ids of the encryption keys that its secrets are sealed under. The keys are not in it.
    pub encryption_keys: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Trailer {
    counts: Counts,
    sha256: String,
}

/// A file that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It can't be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Something else.
    #[error("this is no file that `tidegate export` wrote")]
    Foreign,
    /// Written by a newer release.
    #[error("the file has format {0}, this release reads up to {FORMAT}: import it with the release that wrote it, or a newer one")]
    Newer(u8),
    /// Its end is missing.
    #[error("the file is cut short: the export did not come to its end, or was not copied whole")]
    Cut,
    /// Not what was written.
    #[error("the file is damaged: {0}")]
    Altered(String),
    /// An item that no frame holds.
    #[error("an item of {0} bytes does not fit into a frame of {MAX_FRAME}")]
    TooLarge(usize),
}

/// Writes a file.
pub struct Writer<W> {
    to: W,
    hash: Context,
    counts: Counts,
}

impl<W: Write> Writer<W> {
    /// Begins with the header.
    pub fn new(to: W, header: &Header) -> Result<Self, FileError> {
        let mut writer = Self { to, hash: Context::new(&SHA256), counts: Counts::new() };
        writer.raw(MAGIC)?;
        writer.frame(&json(header))?;
        Ok(writer)
    }

    /// Adds an item.
    pub fn item(&mut self, item: &Item) -> Result<(), FileError> {
        let frame = postcard::to_extend(item, Vec::new()).expect("plain data always serialises");
        self.frame(&frame)?;
        *self.counts.entry(item.kind().to_owned()).or_default() += 1;
        Ok(())
    }

    /// Writes the trailer. Answers what it was written to, and what is in it.
    pub fn finish(mut self) -> Result<(W, Counts), FileError> {
        self.raw(&[0; 4])?;
        let sha256 = hex::encode(self.hash.clone().finish());
        let trailer = Trailer { counts: self.counts.clone(), sha256 };
        self.frame(&json(&trailer))?;
        self.to.flush()?;
        Ok((self.to, self.counts))
    }

    fn frame(&mut self, frame: &[u8]) -> Result<(), FileError> {
        let length = u32::try_from(frame.len()).ok().filter(|length| *length as usize <= MAX_FRAME);
        self.raw(&length.ok_or(FileError::TooLarge(frame.len()))?.to_be_bytes())?;
        self.raw(frame)
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<(), FileError> {
        self.hash.update(bytes);
        Ok(self.to.write_all(bytes)?)
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data always serialises")
}

/// Reads a file.
pub struct Reader<R> {
    from: R,
    hash: Context,
    counts: Counts,
    header: Header,
}

/// What a file has next.
#[derive(Debug)]
pub enum Next {
    /// One more item.
    Item(Box<Item>),
    /// That was the last. The file is whole, and these are its items.
    End(Counts),
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    pub fn new(from: R) -> Result<Self, FileError> {
        let header = Header {
            format: FORMAT,
            release: String::new(),
            created_at: Timestamp(0),
            store: String::new(),
            shards: 0,
            revision: Revision(0),
            encryption_keys: Vec::new(),
        };
        let mut reader = Self { from, hash: Context::new(&SHA256), counts: Counts::new(), header };
        let magic = reader.raw(MAGIC.len());
        if !matches!(magic, Ok(magic) if magic == MAGIC) {
            return Err(FileError::Foreign);
        }
        #[derive(Deserialize)]
        struct Version {
            format: u8,
        }
        let frame = reader.frame()?;
        let Version { format } = read_json(&frame, "its header")?;
        if format > FORMAT {
            return Err(FileError::Newer(format));
        }
        reader.header = read_json(&frame, "its header")?;
        Ok(reader)
    }

    /// What the file says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The next item. To be called until it says that there is none, or fails.
    #[allow(clippy::should_implement_trait, reason = "the end has something to say")]
    pub fn next(&mut self) -> Result<Next, FileError> {
        let frame = self.frame()?;
        if frame.is_empty() {
            return self.trailer();
        }
        let item: Item = postcard::from_bytes(&frame).map_err(|_| FileError::Altered("an item can't be read".into()))?;
        *self.counts.entry(item.kind().to_owned()).or_default() += 1;
        Ok(Next::Item(Box::new(item)))
    }

    fn trailer(&mut self) -> Result<Next, FileError> {
        let sha256 = hex::encode(self.hash.clone().finish());
        let trailer: Trailer = read_json(&self.frame()?, "its trailer")?;
        if trailer.sha256 != sha256 {
            return Err(FileError::Altered("its checksum is not that of its contents".into()));
        }
        if trailer.counts != self.counts {
            return Err(FileError::Altered(format!("it holds {:?} and should hold {:?}", self.counts, trailer.counts)));
        }
        if self.from.read(&mut [0])? != 0 {
            return Err(FileError::Altered("something stands behind its end".into()));
        }
        Ok(Next::End(std::mem::take(&mut self.counts)))
    }

    fn frame(&mut self) -> Result<Vec<u8>, FileError> {
        let length = self.raw(4)?;
        let length = u32::from_be_bytes(length.try_into().expect("four bytes were read")) as usize;
        if length > MAX_FRAME {
            return Err(FileError::Altered(format!("a frame says that it has {length} bytes")));
        }
        self.raw(length)
    }

    /// So many bytes. What is not there takes no memory, whatever a frame says of its length.
    #[allow(clippy::disallowed_methods, reason = "no more than the length that is asked for")]
    fn raw(&mut self, length: usize) -> Result<Vec<u8>, FileError> {
        let mut bytes = Vec::with_capacity(length.min(1 << 20));
        let read = self.from.by_ref().take(length as u64).read_to_end(&mut bytes);
        match read {
            Ok(read) if read == length => {
                self.hash.update(&bytes);
                Ok(bytes)
            }
            Ok(_) => Err(FileError::Cut),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(FileError::Cut),
            Err(error) => Err(error.into()),
        }
    }
}

fn read_json<T: DeserializeOwned>(frame: &[u8], what: &str) -> Result<T, FileError> {
    serde_json::from_slice(frame).map_err(|error| FileError::Altered(format!("{what}: {error}")))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn header() -> Header {
        Header {
            format: FORMAT,
            release: "0".into(),
            created_at: Timestamp(1),
            store: "redis".into(),
            shards: 4,
            revision: Revision(2),
            encryption_keys: vec!["a".into()],
        }
    }

    fn file() -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), &header()).expect("memory takes all");
        for number in 0..3 {
            writer
                .item(&Item::Setting { key: number.to_string(), value: Bytes::from(vec![number; 20]) })
                .expect("memory takes all");
        }
        writer.finish().expect("memory takes all").0
    }

    fn read(file: &[u8]) -> Result<Counts, FileError> {
        let mut reader = Reader::new(file)?;
        loop {
            if let Next::End(counts) = reader.next()? {
                return Ok(counts);
            }
        }
    }

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let file = file();
        assert_eq!(Reader::new(&file[..]).expect("a file").header(), &header());
        assert_eq!(read(&file).expect("it is whole"), Counts::from([("settings".to_owned(), 3)]));
    }

    #[test]
    fn no_part_of_a_file_is_taken_for_the_whole() {
        let file = file();
        for length in 0..file.len() {
            let error = read(&file[..length]).expect_err("it is cut");
            assert!(matches!(error, FileError::Cut | FileError::Foreign), "{length}: {error}");
        }
        let longer = [&file[..], &[0]].concat();
        assert!(matches!(read(&longer), Err(FileError::Altered(_))));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let file = file();
        for at in 0..file.len() {
            for change in [1, 0x80] {
                let mut changed = file.clone();
                changed[at] ^= change;
                assert!(read(&changed).is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let file = Writer::new(Vec::new(), &Header { format: FORMAT + 1, ..header() }).expect("memory takes all").to;
        assert!(matches!(read(&file), Err(FileError::Newer(2))));
    }
}
