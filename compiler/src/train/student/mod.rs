//! The network to train: what a user says about it, completed by its teacher.
//!
//! A student's description has the tables `arch` and `data_loader` of the trainer's `config.json`, in TOML or JSON:
//!
//! ```toml
//! [arch]
//! type = "ResNet32Model"      # left out: the teacher's
//! [arch.args]
//! num_experts = 2
//! layer2_output_dim = 24      # widths and blocks of the stages
//! layer2_blocks = 3
//! ```
//!
//! What it leaves out is the teacher's: the classes, the classifier and the preparation of images always, widths and
//! blocks if the architecture is the same.

mod inherit;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use ride_calibrate::preprocess::Preprocess;
use serde_json::{Map, Value, json};

pub use inherit::{Inheritance, inherit};

/// Largest description that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// Arguments of architectures that a student may have.
const ARGS: [&str; 14] = [
    "num_classes",
    "num_experts",
    "reduce_dimension",
    "use_norm",
    "s",
    "share_layer3",
    "layer1_blocks",
    "layer2_blocks",
    "layer3_blocks",
    "layer4_blocks",
    "layer1_output_dim",
    "layer2_output_dim",
    "layer3_output_dim",
    "layer4_output_dim",
];
/// Arguments of routers, which are trained when the experts are.
const ROUTER_ARGS: [&str; 4] = ["top_choices_num", "pos_weight", "share_expert_help_pred_fc", "force_all"];
/// Arguments that a student has from its teacher whatever its architecture is.
const ALWAYS: [&str; 3] = ["num_classes", "use_norm", "s"];

/// What a user says about a student.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Description {
    /// The table `arch`.
    arch: Map<String, Value>,
    /// The table `data_loader`.
    data_loader: Option<Value>,
}

impl Description {
    /// Reads a description: TOML, or JSON where the file's name ends so.
    ///
    /// # Errors
    /// Names the file, and the key that is unknown or of the wrong type.
    pub fn read(path: &Path) -> Result<Self> {
        let what = || format!("cannot read the description of the student {}", path.display());
        let kind = fs::metadata(path).with_context(what)?;
        ensure!(kind.is_file() && kind.len() <= MAX_BYTES, "{} is no description of a student", path.display());
        let text = fs::read_to_string(path).with_context(what)?;
        let json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        Self::parse(&text, json).with_context(what)
    }

    /// Reads a description's text. In JSON, which may be the configuration of another training, tables that say nothing
    /// about the network are passed over.
    ///
    /// # Errors
    /// As [`Description::read`].
    pub fn parse(text: &str, json: bool) -> Result<Self> {
        let value: Value = if json { serde_json::from_str(text)? } else { toml::from_str(text)? };
        let Value::Object(mut tables) = value else { bail!("expected a table") };
        let arch = match tables.remove("arch") {
            Some(Value::Object(arch)) => arch,
            Some(other) => bail!("arch is {other}; expected a table with type and args"),
            None => Map::new(),
        };
        let data_loader = tables.remove("data_loader");
        ensure!(
            data_loader.as_ref().is_none_or(Value::is_object),
            "data_loader must be a table, as in the trainer's config.json"
        );
        if let Some(key) = tables.keys().find(|_| !json) {
            bail!("the table {key:?} is unknown; a student has [arch], [arch.args] and [data_loader]");
        }
        if let Some(key) = arch.keys().find(|key| !["type", "args"].contains(&key.as_str())) {
            bail!("arch.{key} is unknown; a student's arch has type and args");
        }
        let args = arch.get("args").cloned().unwrap_or_else(|| json!({}));
        let args = args.as_object().context("arch.args must be a table")?;
        if let Some(key) = args.keys().find(|key| ![&ARGS[..], &ROUTER_ARGS].concat().contains(&key.as_str())) {
            bail!("arch.args.{key} is unknown; a student may have {}", ARGS.join(", "));
        }
        Ok(Self { arch, data_loader })
    }

    /// The configuration of the network, and notes about what was left out.
    ///
    /// # Errors
    /// If nobody says which architecture it is.
    pub fn config(&self, teacher: Option<&Value>, preprocess: Option<&Preprocess>) -> Result<(Value, Vec<String>)> {
        let teacher_arch = teacher.and_then(|config| config.get("arch"));
        let own = self.arch.get("type").and_then(Value::as_str);
        ensure!(own.is_some() || !self.arch.contains_key("type"), "arch.type must be the name of an architecture");
        let kind = own.or(kind_of(teacher_arch)).context(
            "the description does not name an architecture, and there is no teacher to have it from; write \
             type = \"ResNet32Model\" into [arch], for instance",
        )?;
        let plain = without_routers(kind);
        let mut args = Map::new();
        let same = kind_of(teacher_arch).is_some_and(|theirs| without_routers(theirs) == plain);
        if let Some(theirs) = teacher_arch.and_then(|arch| arch.get("args")).and_then(Value::as_object) {
            let taken = theirs
                .iter()
                .filter(|(key, _)| (same && key.as_str() != "num_experts") || ALWAYS.contains(&key.as_str()));
            args.extend(taken.map(|(key, value)| (key.clone(), value.clone())));
        }
        if let Some(own) = self.arch.get("args").and_then(Value::as_object) {
            // Explicit widths of the teacher would hide what the student says about all of them.
            if own.contains_key("reduce_dimension") {
                args.retain(|key, _| !key.ends_with("_output_dim"));
            }
            args.extend(own.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        ROUTER_ARGS.iter().for_each(|key| drop(args.remove(*key)));
        let mut notes = Vec::new();
        if plain != kind {
            notes.push(format!("{plain} is trained; train-router adds the routers of {kind} to it"));
        }
        let loader = self.data_loader.clone().unwrap_or_else(|| loader_of(teacher, preprocess));
        Ok((json!({"name": "ride-student", "arch": {"type": plain, "args": args}, "data_loader": loader}), notes))
    }
}

/// The name of the architecture in a table `arch`.
fn kind_of(arch: Option<&Value>) -> Option<&str> {
    arch?.get("type")?.as_str()
}

/// `ResNet32Model` for `ResNet32EAModel`.
fn without_routers(kind: &str) -> String {
    kind.strip_suffix("EAModel").map_or_else(|| kind.to_owned(), |base| format!("{base}Model"))
}

/// The teacher's loader, with everything said that could be guessed wrongly.
fn loader_of(teacher: Option<&Value>, preprocess: Option<&Preprocess>) -> Value {
    let kind = teacher.and_then(|config| config.get("data_loader")).and_then(|loader| loader.get("type"));
    let mut loader = Map::new();
    if let Some(kind) = kind.filter(|kind| kind.is_string()) {
        loader.insert("type".into(), kind.clone());
    }
    if let Some(Preprocess { input, mean, std, resize_short }) = preprocess {
        let exact = |values: &[f32]| values.iter().map(|v| v.to_string().parse().unwrap_or(0.0)).collect::<Vec<f64>>();
        let mut args = json!({"mean": exact(mean), "std": exact(std), "input_size": [input.height, input.width]});
        if let Some(short) = resize_short {
            args["resize"] = json!(short);
        }
        loader.insert("args".into(), args);
    }
    Value::Object(loader)
}

#[cfg(test)]
mod tests {
    use ride_calibrate::preprocess::InputSize;

    use super::*;

    fn teacher() -> Value {
        json!({
            "arch": {"type": "ResNet32EAModel", "args": {
                "num_classes": 10, "num_experts": 3, "use_norm": true, "s": 20.0, "layer2_output_dim": 24,
                "layer3_blocks": 4, "top_choices_num": 5, "pos_weight": 100}},
            "data_loader": {"type": "ImbalanceCIFAR100DataLoader", "args": {"batch_size": 128}},
        })
    }

    fn config(text: &str) -> Value {
        Description::parse(text, false).unwrap().config(Some(&teacher()), None).unwrap().0
    }

    #[test]
    fn the_teacher_completes_the_student() {
        let both = config("[arch.args]\nnum_experts = 2\nlayer3_blocks = 2\n");
        assert_eq!(both["arch"]["type"], "ResNet32Model");
        let args = json!({"num_classes": 10, "num_experts": 2, "use_norm": true, "s": 20.0, "layer2_output_dim": 24,
            "layer3_blocks": 2});
        assert_eq!(both["arch"]["args"], args);
        assert_eq!(both["data_loader"]["type"], "ImbalanceCIFAR100DataLoader");
        let reduced = config("[arch.args]\nnum_experts = 2\nreduce_dimension = true\n");
        assert_eq!(reduced["arch"]["args"].get("layer2_output_dim"), None);
        let other = config("[arch]\ntype = \"ResNet10EAModel\"\n[arch.args]\nnum_experts = 1\n");
        assert_eq!(other["arch"]["type"], "ResNet10Model");
        assert_eq!(other["arch"]["args"], json!({"num_classes": 10, "num_experts": 1, "use_norm": true, "s": 20.0}));
    }

    #[test]
    fn images_are_prepared_as_the_teacher_has_it() {
        let preprocess = Preprocess {
            input: InputSize { height: 20, width: 24, channels: 3 },
            mean: vec![0.1, 0.2, 0.3],
            std: vec![0.4, 0.5, 0.6],
            resize_short: Some(30),
        };
        let description = Description::parse("[arch]\ntype = \"ResNet32Model\"\n", false).unwrap();
        let (config, _) = description.config(Some(&teacher()), Some(&preprocess)).unwrap();
        let options = crate::import::ImportOptions::default();
        let (read, warnings) = crate::import::preprocess(&config, &options).unwrap();
        assert_eq!(read, preprocess);
        assert!(warnings.is_empty(), "{warnings:?}");
    }

    #[test]
    fn what_is_unknown_is_named() {
        for (text, part) in [
            ("[arch.args]\nlayer2_block = 3\n", "layer2_block"),
            ("[arch]\nkind = \"x\"\n", "arch.kind"),
            ("[training]\nlr = 0.1\n", "training"),
            ("arch = 3\n", "arch"),
            ("data_loader = 3\n", "data_loader"),
            ("[arch", "arch"),
        ] {
            let error = format!("{:#}", Description::parse(text, false).unwrap_err());
            assert!(error.contains(part), "{text}: {error}");
        }
        let nobody = Description::parse("", false).unwrap().config(None, None).unwrap_err().to_string();
        assert!(nobody.contains("architecture"), "{nobody}");
        assert!(Description::parse(&teacher().to_string(), true).is_ok());
    }
}
