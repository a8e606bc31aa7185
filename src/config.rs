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
mod limit;
mod lists;
pub mod load;
pub mod options;
mod served;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

pub use self::{
    choices::{
        Agreement, CpuFeatures, DType, DecodeIsolation, Device, LoadTime, LogFormat, MatchingToken,
        MatmulPrecision, TextNormalization,
    },
    lists::{Host, List, Network, WebOrigin},
    load::{Effective, Origin, Sources},
    served::{Served, is_hub_id},
};
use self::{
    codec::{
        Address, Aliases, Choice, Count, CountOrZero, File, Filter, Listed, Models, Octal, Size,
        SizeOrZero, Switch, Text, Time,
    },
    options::section,
};
pub(crate) use self::{file::suggest, limit::Limit};

options::sections! {
    /// Everything the server is told before it starts.
    Config {
        /// Where to listen.
        listen: Listen,
        /// The certificate of the listeners.
        tls: Tls,
        /// Who may ask.
        auth: Auth,
        /// Which model to serve, and how.
        model: Model,
        /// How batches are formed.
        batch: Batch,
        /// What a request may ask for.
        limits: Limits,
        /// Images that requests name by URL.
        fetch: Fetch,
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
        /// A Unix socket to serve HTTP on as well, for clients on this machine; none by default. What a
        /// server that crashed left there is replaced.
        unix: Option<PathBuf> = None, File "PATH", flag "listen-unix";
        /// Who may connect to it, as file permissions: its owner only, unless asked for otherwise.
        unix_mode: u32 = 0o600, Octal "MODE";
        /// Address and port of a listener that has the metrics, the health checks and the models' towers and nothing
        /// else, in plain HTTP and without keys; the HTTP listener then has no metrics. None by default.
        admin: Option<SocketAddr> = None, Address "ADDR:PORT", flag "admin-listen";
        /// An origin whose pages may call the HTTP listener from a browser (CORS); `*` for all. May be
        /// repeated. None by default.
        cors_origins: Option<List<WebOrigin>> = None, Listed "ORIGIN", flag "cors-origin";
        /// A host name under which clients may call the HTTP listener, such as `siglip.example.com` or
        /// `*.example.com`. May be repeated. Addresses and `localhost` are always taken. Without a list a listener
        /// on a loopback address takes nothing else, so that no web site can have its own name resolve to it; any
        /// other listener takes every name.
        allowed_hosts: Option<List<Host>> = None, Listed "HOST", flag "allowed-host";
        /// Whether other processes may listen on the same ports at the same time (`SO_REUSEPORT`), for a
        /// restart in place. A server that drains then leaves new connections to the others.
        reuse_port: bool = false, Switch "BOOL", flag "reuse-port";
        /// Maximum number of open connections of each listener (HTTP, gRPC, Unix socket); further ones wait to be
        /// accepted. Fewer where the system grants the process too few file descriptors.
        max_connections: usize = 4096, Count "N";
        // Longer than the minute that load balancers idle by default: the side that closes first must not
        // be the server, or a request sent at that moment is lost.
        /// How long a request's head may take over HTTP/1, and a connection of any listener may be open without a
        /// request.
        idle_timeout: Duration = Duration::from_secs(75), Time "DURATION";
        /// How long a client may leave what it is sent unread: then its connection is closed, or its stream over
        /// HTTP/2 and gRPC.
        write_timeout: Duration = Duration::from_secs(30), Time "DURATION";
        /// How long a server that was told to stop still takes new requests, while its readiness is red:
        /// as long as load balancers need to notice.
        drain_delay: Duration = Duration::ZERO, Time "DURATION", flag "drain-delay";
        /// How long a draining server may take to finish what it accepted.
        grace_period: Duration = Duration::from_secs(30), Time "DURATION", flag "grace-period";
    }
}

section! {
    /// TLS of the HTTP and gRPC listeners. Both files, or neither; they are read again when they change.
    Tls {
        /// The certificate chain (PEM), the server's own certificate first.
        cert_file: Option<PathBuf> = None, File "FILE", flag "tls-cert";
        /// The certificate's private key (PEM).
        key_file: Option<PathBuf> = None, File "FILE", flag "tls-key";
    }
}

section! {
    /// API keys.
    Auth {
        /// A file of API keys (TOML): `[NAME]`, and below it `key` and perhaps `max_concurrent`. It is read
        /// again when it changes. Without it nobody is asked for a key.
        keys_file: Option<PathBuf> = None, File "FILE", flag "api-keys";
    }
}

section! {
    /// The served models.
    Model {
        /// `demo` for the embedded checkpoint, a folder in Hugging Face layout, or a hub id such as
        /// `google/siglip-base-patch16-224`. May be repeated: the first model answers requests that name
        /// none. In full `NAME=SOURCE@REVISION,SETTING=VALUE`, all but the source optional, with the
        /// settings `device`, `dtype`, `threads`, `load` and `idle`.
        source: String = "demo".to_owned(), Models "DIR|HUB_ID", flag "model";
        /// The name that requests use, of a single model; by default the source's last path component.
        name: Option<String> = None, Text "NAME";
        /// One more name of a model. May be repeated. A model from the hub has its id as one.
        alias: Option<String> = None, Aliases "ALIAS=NAME";
        /// The hub revision of a single model: a branch, a tag or a commit, which pins it.
        revision: Option<String> = None, Text "REVISION", flag "revision";
        /// Where the towers run.
        device: Device = Device::default(), Choice "cpu|cuda[:N]|metal", flag "device";
        /// The type of weights and activations; norms, softmax and scores stay f32. `int8` is for the CPU.
        dtype: DType = DType::default(), Choice "f32|f16|bf16|int8", flag "dtype";
        /// When the towers are loaded: `eager` before the server is ready, `lazy` when the first request needs them. A
        /// lazy model from the hub that is not in the cache is downloaded then, too.
        load: LoadTime = LoadTime::default(), Choice "eager|lazy";
        /// How long a tower has no row before it is unloaded; the next request loads it again. The vision tower and the
        /// text tower go by themselves. `0s` keeps them.
        idle: Duration = Duration::ZERO, Time "DURATION";
        /// Maximum number of bytes of the weights of all loaded towers; 0 is no bound. Where a load needs room, the
        /// tower without rows that was used least recently goes, of those of models that are lazy or have an `idle`.
        max_resident_bytes: u64 = 0, SizeOrZero "SIZE", flag "max-resident-bytes";
        /// Minimum cosine between embeddings in another type than f32 and the same in f32, on a few images
        /// and texts at load; a model below it does not start. By default 0.999 for `f16` and `bf16`, and 0.99
        /// for `int8`. 0 measures nothing, which saves the time of loading the model in f32.
        min_agreement: Option<Agreement> = None, Choice "COSINE", flag "min-agreement";
        /// How f32 is multiplied on a CPU: `highest` is in f32; `high` is in three products of bf16 where the processor
        /// does those faster (AMX), and as `highest` elsewhere. By default `high` where it is faster and embeddings on
        /// the images and texts of the check at load have a cosine within 1e-9 of 1 with `highest`.
        matmul_precision: Option<MatmulPrecision> = None, Choice "highest|high", flag "matmul-precision";
        /// What is done to a text before the tokenizer reads it: `auto` is what the checkpoint was trained
        /// with; `hf`, `bigvision` and `openclip` are what each reference does; `none` is nothing.
        text_normalization: TextNormalization = TextNormalization::default(), Choice "MODE", flag "text-normalization";
        /// The token before a text that the matching head of a BLIP retrieval checkpoint reads: `cls` as transformers
        /// has it, `enc` as the models were trained. Other models have no such choice.
        matching_token: MatchingToken = MatchingToken::default(), Choice "cls|enc", flag "matching-token";
        /// Threads of forward passes on the CPU; 0 means one per physical core. Models with equal numbers
        /// share their threads.
        threads: usize = 0, CountOrZero "N", flag "threads";
        /// Among how many replicas of the towers, each on cores of its own, the rows of a batch are shared
        /// out. With many cores more than one give more images a second; a lone row takes longer. The
        /// weights are held once.
        replicas: usize = 1, Count "N", flag "replicas";
        /// Which instructions of the processor forward passes use: `auto` is the fastest that it has,
        /// which is measured at start where names do not tell; the others pin one, so that machines of different kinds
        /// give equal vectors.
        cpu_features: CpuFeatures = CpuFeatures::default(), Choice "auto|portable|avx2|avx512|avx512vnni|avx512bf16|amx|neon", flag "cpu-features";
        /// Threads that decode and resize images; 0 means one per core.
        cpu_pool_threads: usize = 0, CountOrZero "N", flag "cpu-pool-threads";
        /// Where images are decoded: `process` is in processes of their own, without files and network and with limits
        /// on memory and time, so that no image can harm the server (Linux; threads elsewhere, and where no process
        /// can be started); `thread` is on the server's own threads.
        decode_isolation: DecodeIsolation = DecodeIsolation::default(), Choice "process|thread", flag "decode-isolation";
        /// Whether a large JPEG is decoded at half its size: one with four times the rows and columns that the
        /// model reads, or more. That takes less time and moves pixels by a few levels of 255
        /// (docs/numerics.md). It acts in builds with the feature `turbojpeg` only, such as the container
        /// image; all others decode every pixel.
        fast_decode: bool = true, Switch "BOOL", flag "fast-decode";
    }
}

section! {
    /// The dynamic batcher.
    Batch {
        /// Maximum number of images in one forward pass.
        max_image_rows: usize = 16, Count "N";
        /// Maximum number of texts in one forward pass.
        max_text_rows: usize = 32, Count "N";
        /// How long a batch that is not full waits for more rows once a slot is free. 0 is best for
        /// latency and nearly always for throughput: while a batch runs, the next one fills by itself.
        max_wait: Duration = Duration::ZERO, Time "DURATION";
        /// Maximum number of rows that wait in one tower's queue.
        max_queue_rows: usize = 8192, Count "N";
        /// How often a model's worker may break and be replaced within an hour. Once more, and the server
        /// drains and exits with code 1.
        max_restarts: usize = 3, CountOrZero "N";
    }
}

section! {
    /// Bounds on a request, and on all of them together. Past one: a typed error at once.
    Limits {
        /// Maximum number of bytes of a request's body.
        max_body_bytes: usize = 64 << 20, Size "SIZE";
        /// Maximum number of texts and images of one embedding request.
        max_items: usize = 1024, Count "N";
        /// Maximum number of rows on one side of a similarity request whose side is given as embeddings.
        max_embeddings: usize = 100_000, Count "N";
        /// Maximum number of labels of one classification request, before templates.
        max_labels: usize = 1024, Count "N";
        /// Maximum number of bytes of one text.
        max_text_bytes: usize = 64 << 10, Size "SIZE";
        /// Maximum number of bytes of one encoded image.
        max_image_bytes: usize = 20 << 20, Size "SIZE";
        // 50 megapixels: the largest images of common cameras, 150 MB once decoded.
        /// Maximum number of pixels of one image, read from its header before decoding. No side may have more than a
        /// million, whatever this says.
        max_image_pixels: u64 = 50_000_000, Count "N";
        // SigLIP 2 was trained on up to 1024; attention costs the square of it.
        /// Maximum number of patches of one image that a request may ask for, of a model that reads images in
        /// variable resolution. What such a model takes by itself is always allowed.
        max_num_patches: usize = 1024, Count "N";
        /// Maximum number of bytes that decoding one image may take at its peak, estimated from its header.
        max_decode_bytes: u64 = 512 << 20, Size "SIZE";
        // A JPEG or PNG of 50 megapixels takes about one second.
        /// Maximum processor time of decoding one image, in whole seconds, where images are decoded in processes of
        /// their own.
        max_decode_time: Duration = Duration::from_secs(10), Time "DURATION";
        // Two of the largest images at once, or a hundred common ones: it bounds memory, not speed.
        /// Maximum number of bytes that all decoding at once may take; images wait for their share.
        max_decode_bytes_in_flight: u64 = 1 << 30, Size "SIZE";
        /// Maximum depth of arrays and objects in a JSON body.
        max_json_depth: usize = 32, Count "N";
        /// Maximum number of items in the server at once, queued or running.
        max_items_in_flight: usize = 8192, Count "N";
        // With the images that are being decoded and fetched, the caches and a base model in f32, a
        // container of 4 GiB holds it (docs/operations.md has the sum).
        /// Maximum number of request bytes held for items in flight.
        max_bytes_in_flight: usize = 256 << 20, Size "SIZE";
        // A thousand images of two megapixels: some ten seconds of decoding on two cores.
        /// Maximum number of pixels of images in flight that are not decoded yet.
        max_pixels_in_flight: u64 = 2_000_000_000, Count "N";
        /// Maximum number of bytes of features in one answer, counted as 32-bit floats.
        max_feature_bytes: usize = 256 << 20, Size "SIZE";
        /// Maximum number of bulk streams at once.
        max_bulk_streams: usize = 16, Count "N";
        /// Maximum number of rows of all bulk streams in the server at once, beside the items in flight.
        max_bulk_rows: usize = 512, Count "N";
        /// Maximum number of bytes held for the rows of bulk streams.
        max_bulk_bytes: usize = 128 << 20, Size "SIZE";
        /// A bulk stream that moves no row for this long is ended.
        bulk_idle_timeout: Duration = Duration::from_secs(60), Time "DURATION";
        /// A request that has no answer after this is answered 504.
        request_timeout: Duration = Duration::from_secs(60), Time "DURATION";
    }
}

section! {
    /// Fetching of images by URL. Off by default: it lets a client make the server connect to others.
    Fetch {
        /// Whether an image may be given as an `https` URL.
        enabled: bool = false, Switch "BOOL", flag "fetch";
        /// Whether `http` URLs are fetched too. Anybody on the way can read and change what they give.
        allow_http: bool = false, Switch "BOOL";
        /// The only hosts that are fetched from; all where it is not set. `example.com` means that host,
        /// `*.example.com` every host below it.
        allow_hosts: Option<List<Host>> = None, Listed "HOST";
        /// Hosts that are never fetched from, written as above.
        deny_hosts: Option<List<Host>> = None, Listed "HOST";
        /// The only addresses that are connected to: networks such as `10.1.0.0/16`, and `public` for
        /// all that are neither private, loopback, link-local (cloud metadata among them) nor otherwise
        /// reserved.
        allow_networks: List<Network> = List(vec![Network::Public]), Listed "NETWORK";
        /// Addresses that are never connected to, written as above.
        deny_networks: Option<List<Network>> = None, Listed "NETWORK";
        /// How long one image may take, redirects included.
        timeout: Duration = Duration::from_secs(10), Time "DURATION";
        /// Maximum number of redirects of one fetch; each one is checked like the URL itself.
        max_redirects: usize = 3, CountOrZero "N";
        // Each holds up to `limits.max_image_bytes` until its image is decoded: 320 MiB with the defaults.
        /// Maximum number of images being fetched, or fetched and not yet decoded, at once.
        max_concurrent: usize = 16, Count "N";
        /// A file of certificates (PEM) to trust beside those of the system.
        ca_file: Option<PathBuf> = None, File "FILE";
    }
}

section! {
    /// The embedding cache.
    Cache {
        /// Bytes of text embeddings kept; label sets repeat. 0 keeps none.
        text_bytes: u64 = 64 << 20, SizeOrZero "SIZE";
        /// Bytes of image embeddings kept; 0 keeps none. Equal images in flight are computed once
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
