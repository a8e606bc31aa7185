//! The way of a text: its limits, its ids, its row.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use super::{ItemOptions, no_text_tower};
use crate::{
    cache::Key,
    config::Limit,
    embedding::Embedding,
    engine::{Context, Engine, Input, Usage, input::refuse_image_data},
    error::{Code, Error},
    registry::Model,
    telemetry::Stage,
    tokenize::{TextTokenizer, Tokens},
};

/// A text up to this length is tokenised on the spot: that takes microseconds, less than a hop to the
/// CPU pool and back.
const INLINE_TEXT_BYTES: usize = 2048;

/// An item whose first part is done.
pub(in crate::engine) enum Begun {
    /// A short text, read or refused.
    Text(Result<(Key, Tokens), Error>),
    /// Anything else, as it came.
    Input(Input),
}

impl Engine {
    /// The ids of a text that is not embedded by itself.
    pub(in crate::engine) async fn tokens(
        &self,
        model: &Model,
        input: Input,
        options: ItemOptions,
        context: &Context,
    ) -> Result<(Tokens, Usage), Error> {
        let text = match input {
            Input::Text(text) => text,
            Input::TokenIds(ids) => {
                let tokenizer = model.tokenizer.as_ref().ok_or_else(|| no_text_tower(model))?;
                let tokens = tokenizer.accept(&ids);
                let tokens =
                    tokens.map_err(|error| Error::new(Code::InvalidRequest, error.to_string()))?;
                let usage = Usage { text_tokens: tokens.used, ..Usage::default() };
                return Ok((tokens, usage));
            }
            Input::Unreadable(error) => return Err(error),
            Input::Image(_) => {
                return Err(Error::new(Code::InvalidRequest, "a text is expected, not an image"));
            }
        };
        let (_, tokens) = self.tokenized(model, text, options.truncate, context).await?;
        let truncated_texts = usize::from(tokens.truncated);
        if truncated_texts > 0 {
            context.truncated_texts.fetch_add(1, Ordering::Relaxed);
            self.metrics.truncated_texts.inc();
        }
        let usage = Usage { text_tokens: tokens.used, images: 0, truncated_texts };
        Ok((tokens, usage))
    }

    /// Begins an item: a short text is read at once, and everything else waits for [`Engine::end_item`].
    pub(in crate::engine) fn begin_item(
        &self,
        model: &Model,
        input: Input,
        options: ItemOptions,
        context: &Context,
    ) -> Begun {
        match input {
            Input::Text(text) if text.len() <= INLINE_TEXT_BYTES => {
                Begun::Text(self.read_text(model, &text, options.truncate, context))
            }
            input => Begun::Input(input),
        }
    }

    /// Embeds an item that was begun. The field of its error is for the caller to name.
    pub(in crate::engine) async fn end_item(
        &self,
        model: &Model,
        item: Begun,
        options: ItemOptions,
        context: &Context,
    ) -> Result<(Embedding, Usage), Error> {
        match item {
            Begun::Text(read) => self.embed_text(model, read?, context).await,
            Begun::Input(input) => self.embed_item(model, input, options, context).await,
        }
    }

    /// A text's key in the cache and its ids.
    pub(super) async fn tokenized(
        &self,
        model: &Model,
        text: String,
        truncate: bool,
        context: &Context,
    ) -> Result<(Key, Tokens), Error> {
        if text.len() <= INLINE_TEXT_BYTES {
            return self.read_text(model, &text, truncate, context);
        }
        let tokenizer = self.tokenizer_for(model, &text)?;
        let started = Instant::now();
        let identity = model.identity();
        let job = move || tokenize(&tokenizer, &identity, &text);
        let read = self.on_pool(context, job).await.map_err(Error::internal)??;
        self.note(context, Stage::Tokenize, started);
        whole_or_cut(read, truncate)
    }

    /// The same on the thread that asks.
    fn read_text(
        &self,
        model: &Model,
        text: &str,
        truncate: bool,
        context: &Context,
    ) -> Result<(Key, Tokens), Error> {
        let tokenizer = self.tokenizer_for(model, text)?;
        let started = Instant::now();
        let read = tokenize(&tokenizer, &model.identity(), text)?;
        self.note(context, Stage::Tokenize, started);
        whole_or_cut(read, truncate)
    }

    /// The tokenizer for a text that is within the limits.
    fn tokenizer_for(&self, model: &Model, text: &str) -> Result<Arc<TextTokenizer>, Error> {
        // Before its length: what is too long for a text is an image more often than not.
        refuse_image_data(text)?;
        let limit = self.limits.max_text_bytes;
        if text.len() > limit {
            let limit = Limit::bytes(limit, "limits.max_text_bytes");
            return Err(Error::new(
                Code::TextTooLarge,
                format!("the text has {} bytes, more than the limit of {limit}", text.len()),
            ));
        }
        model.tokenizer.clone().ok_or_else(|| no_text_tower(model))
    }

    pub(super) async fn embed_text(
        &self,
        model: &Model,
        (key, tokens): (Key, Tokens),
        context: &Context,
    ) -> Result<(Embedding, Usage), Error> {
        let truncated_texts = usize::from(tokens.truncated);
        let usage = Usage { text_tokens: tokens.used, images: 0, truncated_texts };
        let compute = async {
            let answer = model.handle.embed_text(tokens, context.submit()).await;
            self.take_answer(context, answer)
        };
        let (embedding, _) = self.texts.get_or_compute(key, compute).await?;
        if truncated_texts > 0 {
            context.truncated_texts.fetch_add(1, Ordering::Relaxed);
            self.metrics.truncated_texts.inc();
        }
        Ok((embedding, usage))
    }

    pub(super) async fn embed_ids(
        &self,
        model: &Model,
        ids: &[u32],
        context: &Context,
    ) -> Result<(Embedding, Usage), Error> {
        let Some(tokenizer) = &model.tokenizer else { return Err(no_text_tower(model)) };
        let tokens = tokenizer
            .accept(ids)
            .map_err(|error| Error::new(Code::InvalidRequest, error.to_string()))?;
        let usage = Usage { text_tokens: tokens.used, ..Usage::default() };
        let answer = model.handle.embed_text(tokens, context.submit()).await;
        Ok((self.take_answer(context, answer)?, usage))
    }
}

/// A text's ids, unless it was cut and must not be.
fn whole_or_cut(read: (Key, Tokens), truncate: bool) -> Result<(Key, Tokens), Error> {
    let (_, tokens) = &read;
    if tokens.truncated && !truncate {
        let length = tokens.ids.len();
        return Err(Error::new(
            Code::TextTooLong,
            format!("the text is longer than the {length} tokens that the model reads"),
        ));
    }
    Ok(read)
}

fn tokenize(tokenizer: &TextTokenizer, identity: &str, text: &str) -> Result<(Key, Tokens), Error> {
    let canonical = tokenizer.canonical(text);
    let tokens = tokenizer.encode(&canonical).map_err(|error| {
        Error::new(Code::InvalidRequest, "the text cannot be tokenised").with_source(error)
    })?;
    Ok((Key::text(identity, &canonical), tokens))
}
