//! What an operator can set: one small struct per concern, every field with its default and its unit.
//!
//! A value comes from its flag, else its environment variable, else the config file, else the default
//! here; [`mod@load`] does the merging and remembers the origin of each. An option is written down once,
//! in a `section!` below: its flag, its variable, its line in the file and its documentation follow.

mod check;
mod choices;
mod codec;
pub mod document;
mod file;
pub mod load;
pub mod options;
mod served;

use std::{net::SocketAddr, time::Duration};

pub use self::{
    choices::{DType, Device, LogFormat},
    load::{Effective, Origin, Sources},
    served::{Served, is_hub_id},
};
use self::{
    codec::{
        Address, Aliases, Choice, Count, CountOrZero, Filter, Models, Size, SizeOrZero, Text, Time,
    },
    options::section,
};

options::sections! {
    /// Everything the server is told before it starts.
    Config {
        /// Where to listen.
        listen: Listen,
        /// Which model to serve, and how.
        model: Model,
        /// How batches are formed.
        batch: Batch,
        /// What a request may ask for.
        limits: Limits,
        /// What is remembered between requests.
        cache: Cache,
        /// What is written to the log.
        log: Log,
    }
}

section! {
    /// Listeners.
    Listen {
        /// Address and port of the HTTP listener. Loopback unless asked for otherwise; port 0 takes a
        /// free one.
        http: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8080)), Address "ADDR:PORT", flag "listen";
        /// Address and port of the gRPC listener; none by default.
        grpc: Option<SocketAddr> = None, Address "ADDR:PORT", flag "grpc-listen";
        /// How long a draining server may take to finish what it accepted.
        grace_period: Duration = Duration::from_secs(30), Time "DURATION", flag "grace-period";
    }
}

section! {
    /// The served models.
    Model {
        /// `demo` for the embedded checkpoint, a folder in Hugging Face layout, or a hub id such as
        /// `google/siglip-base-patch16-224`. May be repeated: the first model answers requests that name
        /// none. In full `NAME=SOURCE@REVISION,SETTING=VALUE`, all but the source optional, with the
        /// settings `device`, `dtype` and `threads`.
        source: String = "demo".to_owned(), Models "DIR|HUB_ID", flag "model";
        /// The name that requests use, of a single model; by default the source's last path component.
        name: Option<String> = None, Text "NAME";
        /// One more name of a model. May be repeated. A model from the hub has its id as one.
        alias: Option<String> = None, Aliases "ALIAS=NAME";
        /// The hub revision of a single model: a branch, a tag or a commit, which pins it.
        revision: Option<String> = None, Text "REVISION", flag "revision";
        /// Where the towers run.
        device: Device = Device::default(), Choice "cpu|cuda[:N]|metal", flag "device";
        /// The type of weights and activations; norms, softmax and scores stay f32.
        dtype: DType = DType::default(), Choice "f32|f16|bf16", flag "dtype";
        /// Threads of forward passes on the CPU; 0 means one per core. Models with equal numbers share
        /// their threads.
        threads: usize = 0, CountOrZero "N", flag "threads";
        /// Threads that decode and resize pictures; 0 means one per core.
        cpu_pool_threads: usize = 0, CountOrZero "N", flag "cpu-pool-threads";
    }
}

section! {
    /// The dynamic batcher.
    Batch {
        /// Most images in one forward pass.
        max_image_rows: usize = 16, Count "N";
        /// Most texts in one forward pass.
        max_text_rows: usize = 32, Count "N";
        /// How long a batch that is not full waits for more rows once a slot is free. 0 is best for
        /// latency and nearly always for throughput: while a batch runs, the next one fills by itself.
        max_wait: Duration = Duration::ZERO, Time "DURATION";
        /// Most rows that wait in one tower's queue.
        max_queue_rows: usize = 8192, Count "N";
    }
}

section! {
    /// Bounds on a request, and on all of them together. Past one: a typed error at once.
    Limits {
        /// Most bytes of a request's body.
        max_body_bytes: usize = 64 << 20, Size "SIZE";
        /// Most texts and images of one embedding request.
        max_items: usize = 1024, Count "N";
        /// Most rows on one side of a similarity request whose side is given as embeddings.
        max_embeddings: usize = 100_000, Count "N";
        /// Most labels of one classification request, before templates.
        max_labels: usize = 1024, Count "N";
        /// Most bytes of one text.
        max_text_bytes: usize = 64 << 10, Size "SIZE";
        /// Most bytes of one encoded picture.
        max_image_bytes: usize = 20 << 20, Size "SIZE";
        // 50 megapixels: the largest pictures of common cameras, 150 MB once decoded.
        /// Most pixels of one picture, read from its header before decoding.
        max_image_pixels: u64 = 50_000_000, Count "N";
        /// Most bytes that decoding one picture may allocate.
        max_decode_bytes: u64 = 512 << 20, Size "SIZE";
        /// Most items in the server at once, queued or running.
        max_items_in_flight: usize = 8192, Count "N";
        /// Most request bytes held for items in flight.
        max_bytes_in_flight: usize = 512 << 20, Size "SIZE";
        /// Most bytes of features in one answer, counted as 32-bit floats.
        max_feature_bytes: usize = 256 << 20, Size "SIZE";
        /// Most bulk streams at once.
        max_bulk_streams: usize = 16, Count "N";
        /// Most rows of all bulk streams in the server at once, beside the items in flight.
        max_bulk_rows: usize = 512, Count "N";
        /// Most bytes held for them.
        max_bulk_bytes: usize = 128 << 20, Size "SIZE";
        /// A bulk stream that moves no row for this long is ended.
        bulk_idle_timeout: Duration = Duration::from_secs(60), Time "DURATION";
        /// A request that has no answer after this is answered 504.
        request_timeout: Duration = Duration::from_secs(60), Time "DURATION";
    }
}

section! {
    /// The embedding cache.
    Cache {
        /// Bytes of text embeddings kept; label sets repeat. 0 keeps none.
        text_bytes: u64 = 64 << 20, SizeOrZero "SIZE";
        /// Bytes of image embeddings kept; 0 keeps none. Equal pictures in flight are computed once
        /// either way.
        image_bytes: u64 = 0, SizeOrZero "SIZE";
    }
}

section! {
    /// The log.
    Log {
        /// A level (`info`) or a filter (`info,siglip_server::batch=debug`).
        filter: String = "info".to_owned(), Filter "FILTER";
        /// How a line is written: for people, or one JSON object a line.
        format: LogFormat = LogFormat::default(), Choice "human|json";
    }
}
