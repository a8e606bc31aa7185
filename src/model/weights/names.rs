//! Where the towers' tensors lie in files that name them otherwise.
//!
//! The towers ask for the names of transformers. A file of open_clip names its tensors otherwise and packs
//! some of them: this is the one map between the two.

/// Who named the tensors of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::model) enum Names {
    /// transformers: the names that the towers ask for.
    Transformers,
    /// open_clip.
    OpenClip {
        /// Whose names the vision tower has.
        vision: VisionNames,
        /// What stands before every name: nothing, or what a wrapper was called.
        prefix: &'static str,
        /// What stands before the text tower's names.
        text: &'static str,
    },
}

/// Who named the tensors of open_clip's vision tower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum VisionNames {
    /// timm: SigLIP.
    Timm,
    /// open_clip itself: CLIP.
    OpenClip,
}

impl VisionNames {
    /// A tensor that every such tower has.
    fn kernel(self) -> &'static str {
        match self {
            Self::Timm => "visual.trunk.patch_embed.proj.weight",
            Self::OpenClip => "visual.conv1.weight",
        }
    }
}

/// Which rows of a stored tensor are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rows {
    /// All of them: the stored shape is the one asked for.
    All,
    /// One of the three that are packed above each other; the stored tensor is thrice as high.
    Third(usize),
    /// All of them, which are so many thirds of the tensor that is asked for.
    Thirds(usize),
}

/// What a tensor of the towers is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// Stored tensors, the rows of the first above those of the second.
    Stored(Vec<(String, Rows)>),
    /// A stored matrix whose columns are the rows asked for.
    Transposed(String),
    /// Ones on the diagonal: a projection that is left out.
    Identity,
    /// Zeros: a bias that is left out.
    Zeros,
}

impl Source {
    fn of(name: String) -> Self {
        Self::Stored(vec![(name, Rows::All)])
    }

    /// The stored tensors that it reads.
    pub(super) fn stored(&self) -> impl Iterator<Item = &str> {
        let (parts, transposed) = match self {
            Self::Stored(parts) => (parts.as_slice(), None),
            Self::Transposed(name) => (&[][..], Some(name.as_str())),
            Self::Identity | Self::Zeros => (&[][..], None),
        };
        parts.iter().map(|(name, _)| name.as_str()).chain(transposed)
    }
}

impl Names {
    /// The names of open_clip as a file has them: bare, or behind the name of a wrapper.
    pub(in crate::model) fn open_clip(contains: impl Fn(&str) -> bool) -> Self {
        // `module.` is left by distributed training, `model.` by classes that wrap open_clip's.
        let known = ["", "module.", "model."].into_iter().flat_map(|prefix| {
            [VisionNames::Timm, VisionNames::OpenClip].map(|vision| (prefix, vision))
        });
        let found =
            { known }.find(|(prefix, vision)| contains(&format!("{prefix}{}", vision.kernel())));
        let (prefix, vision) = found.unwrap_or(("", VisionNames::Timm));
        // Models that are no `CustomTextCLIP` have the text tower's parameters at the root.
        let text =
            if contains(&format!("{prefix}text.positional_embedding")) { "text." } else { "" };
        Self::OpenClip { vision, prefix, text }
    }

    /// * `name`: as transformers has it
    /// * `contains`: whether a stored tensor has that name
    pub(super) fn source(&self, name: &str, contains: impl Fn(&str) -> bool) -> Source {
        let Self::OpenClip { vision, prefix, text } = self else {
            return fused(name, contains);
        };
        if let Some(rest) = name.strip_prefix("vision_model.") {
            return match vision {
                VisionNames::Timm => of_timm(&format!("{prefix}visual.trunk."), rest),
                VisionNames::OpenClip => clip_vision(&format!("{prefix}visual."), rest),
            };
        }
        // CLIP's projections are bare parameters, applied from the right.
        match name {
            "visual_projection.weight" => {
                return Source::Transposed(format!("{prefix}visual.proj"));
            }
            "text_projection.weight" => {
                return Source::Transposed(format!("{prefix}{text}text_projection"));
            }
            _ => {}
        }
        match name.strip_prefix("text_model.") {
            Some(rest) => text_tower(&format!("{prefix}{text}"), rest, contains),
            None => Source::of(format!("{prefix}{name}")),
        }
    }

    /// What holds a factor for each output of a projection, where open_clip scales a layer's branches.
    ///
    /// * `name`: of the projection's weight or bias, as transformers has it
    pub(super) fn layer_scale(&self, name: &str) -> Option<String> {
        let Self::OpenClip { .. } = self else { return None };
        let branches = [(".self_attn.out_proj.", 1), (".mlp.fc2.", 2)];
        let (layer, branch) = branches
            .iter()
            .find_map(|(projection, branch)| Some((name.split_once(projection)?.0, branch)))?;
        Some(format!("{layer}.layer_scale{branch}"))
    }
}

/// transformers' own name, or what it calls a layer whose projections of attention are one.
fn fused(name: &str, contains: impl Fn(&str) -> bool) -> Source {
    let own = || Source::of(name.to_owned());
    let Some((layer, rest)) = name.split_once(".self_attn.") else { return own() };
    if contains(name) {
        return own();
    }
    if let Some(kind) = rest.strip_prefix("out_proj.") {
        let stored = format!("{layer}.self_attn.projection.{kind}");
        return if contains(&stored) { Source::of(stored) } else { own() };
    }
    let Some((projection, kind)) = rest.split_once("_proj.") else { return own() };
    let stored = format!("{layer}.self_attn.qkv.{kind}");
    match ["q", "k", "v"].iter().position(|&letter| letter == projection) {
        Some(third) if contains(&stored) => Source::Stored(vec![(stored, Rows::Third(third))]),
        _ => own(),
    }
}

/// timm's `VisionTransformer` with attention pooling.
fn of_timm(prefix: &str, name: &str) -> Source {
    if let Some(kind) = name.strip_prefix("head.attention.in_proj_") {
        return Source::Stored(vec![
            (format!("{prefix}attn_pool.q.{kind}"), Rows::Thirds(1)),
            (format!("{prefix}attn_pool.kv.{kind}"), Rows::Thirds(2)),
        ]);
    }
    if let Some(packed) = packed(name, "blocks", "attn.qkv.") {
        return packed.below(prefix);
    }
    Source::of(format!(
        "{prefix}{}",
        renamed(
            name,
            &[
                ("embeddings.patch_embedding.", "patch_embed.proj."),
                ("embeddings.position_embedding.weight", "pos_embed"),
                ("post_layernorm.", "norm."),
                ("head.probe", "attn_pool.latent"),
                ("head.attention.out_proj.", "attn_pool.proj."),
                ("head.layernorm.", "attn_pool.norm."),
                ("head.mlp.", "attn_pool.mlp."),
                ("encoder.layers.", "blocks."),
            ],
            &[(".layer_norm", ".norm"), (".self_attn.out_proj.", ".attn.proj.")],
        )
    ))
}

/// open_clip's `VisionTransformer`.
fn clip_vision(prefix: &str, name: &str) -> Source {
    if let Some(packed) = packed(name, "transformer.resblocks", "attn.in_proj_") {
        return packed.below(prefix);
    }
    let heads = [
        ("embeddings.class_embedding", "class_embedding"),
        ("embeddings.position_embedding.weight", "positional_embedding"),
        ("embeddings.patch_embedding.", "conv1."),
        ("pre_layrnorm.", "ln_pre."),
        ("post_layernorm.", "ln_post."),
        ("encoder.layers.", "transformer.resblocks."),
    ];
    Source::of(format!("{prefix}{}", renamed(name, &heads, &RESIDUAL_BLOCK)))
}

/// What open_clip calls the parts of a layer.
const RESIDUAL_BLOCK: [(&str, &str); 6] = [
    (".layer_norm", ".ln_"),
    (".self_attn.out_proj.", ".attn.out_proj."),
    (".mlp.fc1.", ".mlp.c_fc."),
    (".mlp.fc2.", ".mlp.c_proj."),
    (".layer_scale1", ".ls_1.gamma"),
    (".layer_scale2", ".ls_2.gamma"),
];

/// open_clip's `TextTransformer`.
fn text_tower(prefix: &str, name: &str, contains: impl Fn(&str) -> bool) -> Source {
    if let Some(packed) = packed(name, "transformer.resblocks", "attn.in_proj_") {
        return packed.below(prefix);
    }
    if let Some(kind) = name.strip_prefix("head.") {
        let whole = format!("{prefix}text_projection");
        let part = format!("{whole}.{kind}");
        return match kind {
            _ if contains(&part) => Source::of(part),
            // A projection without a bias is a bare parameter, applied from the right.
            "weight" if contains(&whole) => Source::Transposed(whole),
            "bias" if contains(&whole) || contains(&format!("{whole}.weight")) => Source::Zeros,
            "weight" => Source::Identity,
            _ => Source::Zeros,
        };
    }
    Source::of(format!(
        "{prefix}{}",
        renamed(
            name,
            &[
                ("embeddings.token_embedding.", "token_embedding."),
                ("embeddings.position_embedding.weight", "positional_embedding"),
                ("final_layer_norm.", "ln_final."),
                ("encoder.layers.", "transformer.resblocks."),
            ],
            &RESIDUAL_BLOCK,
        )
    ))
}

/// Replaces the first head that matches, and then what matches in the middle.
fn renamed(name: &str, heads: &[(&str, &str)], middles: &[(&str, &str)]) -> String {
    let name = heads
        .iter()
        .find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)))
        .unwrap_or_else(|| name.to_owned());
    middles.iter().fold(name, |name, (from, to)| name.replacen(from, to, 1))
}

/// A projection of a layer's attention, which is stored above or below its two fellows.
struct Packed {
    name: String,
    third: usize,
}

impl Packed {
    fn below(self, prefix: &str) -> Source {
        Source::Stored(vec![(format!("{prefix}{}", self.name), Rows::Third(self.third))])
    }
}

/// `encoder.layers.N.self_attn.k_proj.weight` as the second third of `{layers}.N.{attention}weight`.
fn packed(name: &str, layers: &str, attention: &str) -> Option<Packed> {
    let (layer, rest) = name.strip_prefix("encoder.layers.")?.split_once('.')?;
    let (projection, kind) = rest.strip_prefix("self_attn.")?.split_once("_proj.")?;
    let third = ["q", "k", "v"].iter().position(|&letter| letter == projection)?;
    Some(Packed { name: format!("{layers}.{layer}.{attention}{kind}"), third })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str) -> Source {
        let names = Names::OpenClip { vision: VisionNames::Timm, prefix: "", text: "text." };
        names.source(name, |stored| stored == "text.text_projection.weight")
    }

    fn stored(name: &str, rows: Rows) -> Source {
        Source::Stored(vec![(name.to_owned(), rows)])
    }

    #[test]
    fn every_name_has_its_place() {
        for (ours, theirs) in [
            ("logit_scale", "logit_scale"),
            ("vision_model.embeddings.patch_embedding.bias", "visual.trunk.patch_embed.proj.bias"),
            ("vision_model.embeddings.position_embedding.weight", "visual.trunk.pos_embed"),
            (
                "vision_model.encoder.layers.11.layer_norm2.bias",
                "visual.trunk.blocks.11.norm2.bias",
            ),
            (
                "vision_model.encoder.layers.0.self_attn.out_proj.bias",
                "visual.trunk.blocks.0.attn.proj.bias",
            ),
            ("vision_model.encoder.layers.0.mlp.fc2.bias", "visual.trunk.blocks.0.mlp.fc2.bias"),
            ("vision_model.post_layernorm.weight", "visual.trunk.norm.weight"),
            ("vision_model.head.probe", "visual.trunk.attn_pool.latent"),
            ("vision_model.head.layernorm.bias", "visual.trunk.attn_pool.norm.bias"),
            ("vision_model.head.mlp.fc1.weight", "visual.trunk.attn_pool.mlp.fc1.weight"),
            ("text_model.embeddings.position_embedding.weight", "text.positional_embedding"),
            (
                "text_model.encoder.layers.3.layer_norm1.weight",
                "text.transformer.resblocks.3.ln_1.weight",
            ),
            (
                "text_model.encoder.layers.3.mlp.fc2.weight",
                "text.transformer.resblocks.3.mlp.c_proj.weight",
            ),
            ("text_model.final_layer_norm.bias", "text.ln_final.bias"),
            ("text_model.head.weight", "text.text_projection.weight"),
        ] {
            assert_eq!(source(ours), stored(theirs, Rows::All), "{ours}");
        }
    }

    #[test]
    fn what_is_packed_is_found_in_its_pack() {
        assert_eq!(
            source("vision_model.encoder.layers.2.self_attn.k_proj.weight"),
            stored("visual.trunk.blocks.2.attn.qkv.weight", Rows::Third(1))
        );
        assert_eq!(
            source("text_model.encoder.layers.2.self_attn.v_proj.bias"),
            stored("text.transformer.resblocks.2.attn.in_proj_bias", Rows::Third(2))
        );
        let pooled = source("vision_model.head.attention.in_proj_bias");
        assert_eq!(
            pooled.stored().collect::<Vec<_>>(),
            ["visual.trunk.attn_pool.q.bias", "visual.trunk.attn_pool.kv.bias"]
        );
    }

    #[test]
    fn a_projection_may_lack_its_bias_or_be_left_out() {
        let (weight, bias) = ("text_model.head.weight", "text_model.head.bias");
        assert_eq!(source(bias), Source::Zeros);
        let names = Names::open_clip(|name| name == "text.positional_embedding");
        assert_eq!(names.source(weight, |_| false), Source::Identity);
        assert_eq!(names.source(bias, |_| false), Source::Zeros);
        let bare = "text.text_projection";
        assert_eq!(names.source(weight, |name| name == bare), Source::Transposed(bare.to_owned()));
    }

    #[test]
    fn clip_has_names_of_its_own() {
        let names = Names::open_clip(|name| name == "visual.conv1.weight");
        let source = |name| names.source(name, |_| true);
        for (ours, theirs) in [
            ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
            ("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"),
            ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
            ("vision_model.pre_layrnorm.bias", "visual.ln_pre.bias"),
            (
                "vision_model.encoder.layers.3.mlp.fc2.weight",
                "visual.transformer.resblocks.3.mlp.c_proj.weight",
            ),
            (
                "vision_model.encoder.layers.3.layer_scale2",
                "visual.transformer.resblocks.3.ls_2.gamma",
            ),
            ("text_model.encoder.layers.0.layer_scale1", "transformer.resblocks.0.ls_1.gamma"),
            ("text_model.final_layer_norm.bias", "ln_final.bias"),
            ("logit_scale", "logit_scale"),
        ] {
            assert_eq!(source(ours), stored(theirs, Rows::All), "{ours}");
        }
        assert_eq!(
            source("vision_model.encoder.layers.2.self_attn.v_proj.weight"),
            stored("visual.transformer.resblocks.2.attn.in_proj_weight", Rows::Third(2))
        );
        assert_eq!(
            source("visual_projection.weight"),
            Source::Transposed("visual.proj".to_owned())
        );
        assert_eq!(
            source("text_projection.weight"),
            Source::Transposed("text_projection".to_owned())
        );
    }

    #[test]
    fn prefixes_are_found() {
        let names = Names::open_clip(|name| name.starts_with("module.visual."));
        let vision = VisionNames::Timm;
        assert_eq!(names, Names::OpenClip { vision, prefix: "module.", text: "" });
        assert_eq!(
            names.source("text_model.final_layer_norm.bias", |_| true),
            stored("module.ln_final.bias", Rows::All)
        );
    }
}
