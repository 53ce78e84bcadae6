//! PyTorch's format before version 1.6: five pickles, then the storages one after the other.
//!
//! The pickles are a magic number, the protocol version, facts about the machine, the object and the list of storage
//! keys. Each storage is its number of elements (`i64`) and its elements.

use std::collections::HashMap;
use std::io::{Read, Seek, SeekFrom};

use anyhow::{Context, Result, bail, ensure};
use ride_calibrate::pickle::{Kind, Pickle};

use super::Contents;
use super::budget::Budget;
use super::state::{self, Storages};

/// The first pickle: 0x1950a86a20f9469cfc6c, little-endian.
const MAGIC: &[u8] = b"\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
/// The second pickle.
const PROTOCOL: i64 = 1001;
/// Bytes that are read for the pickles at first, and at most.
const PICKLES: (u64, u64) = (1 << 20, 64 << 20);

pub(super) fn read<R: Read + Seek>(mut reader: R, length: u64, want_config: bool) -> Result<Contents> {
    let mut budget = Budget::of_file(length);
    let mut room = PICKLES.0;
    loop {
        reader.rewind()?;
        let mut bytes = Vec::new();
        reader.by_ref().take(room).read_to_end(&mut bytes)?;
        match Pickles::read(&bytes) {
            Ok(pickles) => {
                let mut storages = Stream::index(reader, length, &pickles)?;
                return state::load(&pickles.object, &mut storages, &mut budget, want_config);
            }
            // The pickles are longer than what has been read.
            Err(error) if is_truncated(&error) && room < length.min(PICKLES.1) => room *= 4,
            Err(error) => return Err(error),
        }
    }
}

fn is_truncated(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ride_calibrate::pickle::Error>().is_some_and(|error| error.is_truncated())
}

/// The pickles that matter.
struct Pickles<'a> {
    object: Pickle<'a>,
    keys: Pickle<'a>,
    /// Where the first storage starts.
    end: u64,
}

impl<'a> Pickles<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self> {
        let mut position = 0;
        let mut next = |what: &str| {
            let (pickle, length) = Pickle::read_prefix(&bytes[position..]).with_context(|| {
                format!("the {what} of the old PyTorch format, which starts at byte {position}, cannot be read")
            })?;
            position += length;
            anyhow::Ok(pickle)
        };
        let magic = next("magic number")?;
        ensure!(
            magic.root().kind() == Kind::BigInt(MAGIC),
            "this is a pickle of {} but not a PyTorch checkpoint; save a state dict with torch.save",
            magic.root()
        );
        let protocol = next("protocol version")?;
        ensure!(protocol.root().as_i64() == Some(PROTOCOL), "the protocol version {} is unknown", protocol.root());
        let machine = next("machine description")?;
        if machine.root().get("little_endian").map(|value| value.kind()) == Some(Kind::Bool(false)) {
            bail!("the file is big-endian; only little-endian files are read");
        }
        let object = next("object")?;
        let keys = next("list of storages")?;
        Ok(Self { object, keys, end: position as u64 })
    }
}

/// Where each storage's elements lie in the file.
struct Stream<R> {
    reader: R,
    places: HashMap<String, Place>,
}

struct Place {
    start: u64,
    bytes: u64,
}

impl<R: Read + Seek> Stream<R> {
    /// Walks over the storages; their element sizes are known from the references to them.
    fn index(mut reader: R, length: u64, pickles: &Pickles<'_>) -> Result<Self> {
        let mut sizes = HashMap::new();
        for id in pickles.object.persistent_ids() {
            // Old checkpoints also refer to the source text of modules this way.
            if id.at(0).and_then(|kind| kind.as_str()) == Some("storage") {
                let storage = state::storage(id)?;
                sizes.insert(storage.key, storage.scalar.map(|scalar| scalar.size()));
            }
        }
        let mut places = HashMap::new();
        let mut position = pickles.end;
        for key in pickles.keys.root().items() {
            let key = key.as_str().context("a key in the list of storages is no text")?;
            let Some(Some(size)) = sizes.get(key) else {
                bail!("the storage {key} has an unknown element type, so those behind it cannot be found");
            };
            let mut count = [0; 8];
            reader.seek(SeekFrom::Start(position))?;
            reader.read_exact(&mut count).with_context(|| format!("the file is cut off before storage {key}"))?;
            let count = u64::try_from(i64::from_le_bytes(count)).ok();
            let bytes = count.and_then(|count| count.checked_mul(*size as u64));
            let start = position + 8;
            let fits = bytes.filter(|bytes| *bytes <= length - start);
            let bytes = fits.with_context(|| format!("storage {key} reaches beyond the end of the file"))?;
            position = start + bytes;
            places.insert(key.to_string(), Place { start, bytes });
        }
        Ok(Self { reader, places })
    }
}

impl<R: Read + Seek> Storages for Stream<R> {
    fn read(&mut self, key: &str, bytes: usize) -> Result<Vec<u8>> {
        let place = self.places.get(key).with_context(|| format!("its storage {key} is not in the file"))?;
        ensure!(
            place.bytes == bytes as u64,
            "its storage {key} has {} bytes, expected {bytes}; the file is damaged",
            place.bytes
        );
        self.reader.seek(SeekFrom::Start(place.start))?;
        let mut storage = vec![0; bytes];
        self.reader.read_exact(&mut storage)?;
        Ok(storage)
    }
}
