//! The configuration that the official trainer pickles into its checkpoints.

use ride_calibrate::pickle::{Kind, Value};
use serde_json::{Map, Number, Value as Json};

/// Deepest nesting of a configuration; a shared or cyclic pickle would otherwise never end.
const MAX_DEPTH: usize = 32;
/// Most values and bytes of text of a configuration.
const MAX_SIZE: usize = 1 << 18;

/// The configuration under the key `config`: a dict, or a `ConfigParser` that keeps one in `_config`. `None` if there
/// is none that names an architecture.
pub(super) fn pickled(root: Value<'_>) -> Option<Json> {
    let value = root.get("config")?;
    let inner = value.state().and_then(|state| state.get("_config").or_else(|| state.get("config")));
    let value = inner.unwrap_or(value);
    value.get("arch")?;
    let mut left = MAX_SIZE;
    json(value, MAX_DEPTH, &mut left)
}

/// The value as JSON; objects of unknown classes become null. `None` if it is too deep or too large.
fn json(value: Value<'_>, depth: usize, left: &mut usize) -> Option<Json> {
    let size = 1 + value.as_str().map_or(0, str::len);
    *left = left.checked_sub(size)?;
    let below = || depth.checked_sub(1);
    Some(match value.kind() {
        Kind::Bool(value) => Json::Bool(value),
        Kind::Int(value) => value.into(),
        Kind::Float(value) => Number::from_f64(value).map_or(Json::Null, Json::Number),
        Kind::Str(text) => text.into(),
        Kind::Bytes(_) => value.as_str().map_or(Json::Null, Json::from),
        Kind::List | Kind::Tuple | Kind::Set => {
            let depth = below()?;
            Json::Array(value.items().map(|item| json(item, depth, left)).collect::<Option<_>>()?)
        }
        Kind::Dict | Kind::Object => {
            let depth = below()?;
            let mut map = Map::new();
            for (key, item) in value.entries() {
                let name = key.as_str().map_or_else(|| key.to_string(), str::to_string);
                *left = left.checked_sub(name.len())?;
                map.insert(name, json(item, depth, left)?);
            }
            if map.is_empty() && value.kind() == Kind::Object { Json::Null } else { Json::Object(map) }
        }
        Kind::None | Kind::BigInt(_) | Kind::Class | Kind::Persistent => Json::Null,
    })
}
