//! Decides which files form the checkpoint of a repository with transformers' files, open_clip's, or both.

use serde_json::Value;

use super::{
    CONFIG, OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, WEIGHTS, WEIGHTS_INDEX,
    content::{self, ReadError},
};

/// Maximum number of files of weights.
const MAX_SHARDS: usize = 256;
/// The file extensions of pickled weights.
const PICKLES: [&str; 7] = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npz", ".msgpack"];

/// The format of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `config.json`, as transformers reads it.
    Transformers,
    /// `open_clip_config.json`.
    OpenClip,
}

/// The first files of weights in both layouts, in order of preference.
pub const WEIGHT_FILES: [&str; 3] = [OPEN_CLIP_WEIGHTS, WEIGHTS, WEIGHTS_INDEX];

/// The first file of the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weights {
    /// One file of this name holds all of them.
    Single(&'static str),
    /// [`WEIGHTS_INDEX`] names the files.
    Sharded,
}

impl Weights {
    /// The name of that file.
    #[must_use]
    pub fn first(self) -> &'static str {
        match self {
            Self::Single(name) => name,
            Self::Sharded => WEIGHTS_INDEX,
        }
    }
}

/// Why a set of files is not a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// There is no configuration.
    #[error("there is neither {CONFIG} nor {OPEN_CLIP_CONFIG}")]
    NoConfig,
    /// The configuration is for code that wraps open_clip, but open_clip's own configuration is missing.
    #[error(
        "{CONFIG} (open_clip_model_name) stands for an open_clip model, but there is no \
         {OPEN_CLIP_CONFIG}"
    )]
    NoOpenClipConfig,
    /// There are no weights, not even in an unsupported format.
    #[error("{0}")]
    NoWeights(String),
    /// The weights exist only as a pickle.
    #[error(
        "the weights are there only as `{0}`, which is not read, because a pickle can run code; \
         convert it to safetensors"
    )]
    Pickle(String),
}

impl Layout {
    /// The single rule for repositories with the files of both. It looks only at the configurations, never at
    /// the weights, so that an incomplete copy is refused instead of being read in another way:
    ///
    /// * With one of the two configurations, that one is used.
    /// * With both, `config.json` is used if transformers can read it by itself. It is ignored if it has no
    ///   `model_type` (then it is timm's), or if it names code of its own (`auto_map`, `open_clip_model_name`),
    ///   which wraps open_clip.
    ///
    /// * `config`: the content of `config.json`, if it exists
    /// * `has_open_clip`: whether `open_clip_config.json` exists
    ///
    /// # Errors
    /// [`LayoutError::NoConfig`] or [`LayoutError::NoOpenClipConfig`].
    pub fn of(config: Option<&[u8]>, has_open_clip: bool) -> Result<Self, LayoutError> {
        let Some(config) = config else {
            return if has_open_clip { Ok(Self::OpenClip) } else { Err(LayoutError::NoConfig) };
        };
        // An unreadable file counts as transformers'; the loader then reports what is wrong with it.
        let Ok(config) = serde_json::from_slice::<Value>(config) else {
            return Ok(Self::Transformers);
        };
        let has = |key: &str| config.get(key).is_some_and(|value| !value.is_null());
        match has_open_clip {
            false if has("open_clip_model_name") => Err(LayoutError::NoOpenClipConfig),
            true if !has("model_type") || has("auto_map") || has("open_clip_model_name") => {
                Ok(Self::OpenClip)
            }
            _ => Ok(Self::Transformers),
        }
    }

    /// The names of its weights, in order of preference.
    #[must_use]
    pub fn candidates(self) -> &'static [&'static str] {
        match self {
            Self::OpenClip => &WEIGHT_FILES,
            Self::Transformers => &WEIGHT_FILES[1..],
        }
    }

    /// The weights that belong to the layout: the first of its names that exists.
    ///
    /// * `names`: the names of the existing files
    ///
    /// # Errors
    /// [`LayoutError::NoWeights`] or [`LayoutError::Pickle`].
    pub fn weights<'n>(
        self,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Result<Weights, LayoutError> {
        let names: Vec<&str> = names.into_iter().collect();
        if let Some(&name) = self.candidates().iter().find(|name| names.contains(name)) {
            return Ok(if name == WEIGHTS_INDEX {
                Weights::Sharded
            } else {
                Weights::Single(name)
            });
        }
        let pickled =
            |name: &&&str| PICKLES.iter().any(|end| name.to_ascii_lowercase().ends_with(end));
        if names.contains(&OPEN_CLIP_WEIGHTS) {
            return Err(LayoutError::NoWeights(format!(
                "{CONFIG} is transformers', whose weights are {WEIGHTS} or {WEIGHTS_INDEX}: neither is there. \
                 {OPEN_CLIP_WEIGHTS} is read where {CONFIG} is not there"
            )));
        }
        Err(match names.iter().filter(pickled).min() {
            Some(name) => LayoutError::Pickle((*name).to_owned()),
            None => LayoutError::NoWeights(format!(
                "there is none of the files of weights: {}",
                self.candidates().join(", ")
            )),
        })
    }
}

/// The files that [`WEIGHTS_INDEX`] names, sorted by name: at least one, all in the index's own folder.
///
/// # Errors
/// Says what is wrong with the file.
pub fn shards(index: &[u8]) -> Result<Vec<String>, ReadError> {
    let index = content::json(index)?;
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| {
        ReadError::new("`weight_map` is missing; it says which file holds which tensor")
    })?;
    let mut names = Vec::with_capacity(map.len());
    for (tensor, name) in map {
        let file = name.as_str().filter(|name| {
            // The index is untrusted, so its names must not lead out of its folder.
            !name.contains(['/', '\\', '\0'])
                && !name.starts_with('.')
                && name.ends_with(".safetensors")
        });
        let Some(file) = file else {
            return Err(ReadError::new(format!(
                "`weight_map.{tensor}` is {}; the name of a safetensors file in the same folder is read",
                content::shown(name)
            )));
        };
        names.push(file.to_owned());
    }
    names.sort_unstable();
    names.dedup();
    if (1..=MAX_SHARDS).contains(&names.len()) {
        return Ok(names);
    }
    let count = names.len();
    Err(ReadError::new(format!(
        "`weight_map` names {count} files; from 1 to {MAX_SHARDS} are read"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGLIP: &[u8] = br#"{"model_type": "siglip"}"#;

    #[test]
    fn the_configurations_decide_and_nothing_else() {
        for (config, has_open_clip, expected) in [
            (Some(SIGLIP), false, Ok(Layout::Transformers)),
            (Some(SIGLIP), true, Ok(Layout::Transformers)),
            (None, true, Ok(Layout::OpenClip)),
            (None, false, Err(LayoutError::NoConfig)),
            // timm's.
            (
                Some(&br#"{"architecture": "vit_base_patch16_siglip_224"}"#[..]),
                true,
                Ok(Layout::OpenClip),
            ),
            (
                Some(br#"{"model_type": "siglip", "auto_map": {"a": "b"}}"#),
                true,
                Ok(Layout::OpenClip),
            ),
            (
                Some(br#"{"model_type": "siglip", "auto_map": {"a": "b"}}"#),
                false,
                Ok(Layout::Transformers),
            ),
            (
                Some(br#"{"model_type": "siglip", "auto_map": null}"#),
                true,
                Ok(Layout::Transformers),
            ),
            (
                Some(br#"{"model_type": "siglip", "open_clip_model_name": "hf-hub:a/b"}"#),
                false,
                Err(LayoutError::NoOpenClipConfig),
            ),
            (
                Some(br#"{"model_type": "siglip", "open_clip_model_name": "hf-hub:a/b"}"#),
                true,
                Ok(Layout::OpenClip),
            ),
            // The loader reports what is wrong with this file.
            (Some(b"version https://git-lfs.github.com/spec/v1"), true, Ok(Layout::Transformers)),
        ] {
            let shown = config.map(String::from_utf8_lossy);
            assert_eq!(Layout::of(config, has_open_clip), expected, "{shown:?} {has_open_clip}");
        }
    }

    #[test]
    fn weights_belong_to_a_layout() {
        use Layout::{OpenClip, Transformers};
        let single = |name| Ok(Weights::Single(name));
        for (layout, names, expected) in [
            (Transformers, &[WEIGHTS, OPEN_CLIP_WEIGHTS, WEIGHTS_INDEX][..], single(WEIGHTS)),
            (Transformers, &[OPEN_CLIP_WEIGHTS, WEIGHTS_INDEX], Ok(Weights::Sharded)),
            (OpenClip, &[WEIGHTS, OPEN_CLIP_WEIGHTS], single(OPEN_CLIP_WEIGHTS)),
            (OpenClip, &[WEIGHTS, WEIGHTS_INDEX], single(WEIGHTS)),
            (OpenClip, &[WEIGHTS_INDEX], Ok(Weights::Sharded)),
        ] {
            assert_eq!(layout.weights(names.iter().copied()), expected, "{layout:?} {names:?}");
        }
        let refused = |layout: Layout, names: &[&str]| {
            layout.weights(names.iter().copied()).expect_err("no weights").to_string()
        };
        // The weights of the other layout are never used, although they exist.
        let other = refused(Transformers, &[OPEN_CLIP_WEIGHTS]);
        assert!(other.contains("whose weights are model.safetensors or"), "{other}");
        let pickle = refused(Transformers, &["z.bin", "pytorch_model.bin"]);
        assert!(
            pickle.contains("only as `pytorch_model.bin`") && pickle.contains("a pickle"),
            "{pickle}"
        );
        let none = refused(OpenClip, &["flax.txt"]);
        assert!(none.contains("open_clip_model.safetensors, model.safetensors, "), "{none}");
    }

    #[test]
    fn an_index_names_files_of_its_own_folder() {
        let names = |file: &str| shards(format!(r#"{{"weight_map": {{"a": {file}}}}}"#).as_bytes());
        assert_eq!(
            names(r#""model-00001-of-00002.safetensors""#).expect("a name"),
            ["model-00001-of-00002.safetensors"]
        );
        for wrong in [
            r#""../a.safetensors""#,
            r#""/etc/a.safetensors""#,
            r#""a/b.safetensors""#,
            r#""a.bin""#,
            r#"".safetensors""#,
            r#""a\\b.safetensors""#,
            "7",
            "null",
        ] {
            let error = names(wrong).expect_err(wrong).to_string();
            assert!(
                error.starts_with("`weight_map.a` is ") && error.contains("safetensors file"),
                "{error}"
            );
        }
        for (index, expected) in [
            (r#"{"weight_map": {}}"#, "names 0 files"),
            ("{}", "`weight_map` is missing"),
            ("[]", "`weight_map` is missing"),
            ("version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ] {
            let error = shards(index.as_bytes()).expect_err(index).to_string();
            assert!(error.contains(expected), "{index}: {error}");
        }
    }
}
