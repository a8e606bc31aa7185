//! The options of the server: one small struct per concern, every field with its default and its unit.
//!
//! A value comes from its flag, or else its environment variable, or else the config file, or else the default
//! here. [`mod@load`] merges them and remembers the origin of each. An option is written once, in a `section!`
//! below. Its flag, its variable, its line in the file and its documentation are derived from that.

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
        Agreement, CpuFeatures, CudaKernels, DType, DecodeIsolation, Device, Fraction, LoadTime,
        LogFormat, MatchingToken, MatmulPrecision, TextNormalization, TraceProtocol,
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
    /// The whole configuration.
    Config {
        /// The listeners.
        listen: Listen,
        /// The certificate of the listeners.
        tls: Tls,
        /// API keys.
        auth: Auth,
        /// The served models.
        model: Model,
        /// The batcher.
        batch: Batch,
        /// Limits on requests.
        limits: Limits,
        /// Images that requests name by URL.
        fetch: Fetch,
        /// The cache.
        cache: Cache,
        /// The log.
        log: Log,
        /// Where traces of requests are sent.
        trace: Trace,
    }
}

section! {
    /// Listeners.
    Listen {
        /// Address and port of the HTTP listener, on loopback by default. Port 0 takes a free port.
        http: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8080)), Address "ADDR:PORT", flag "listen";
        /// Address and port of the gRPC listener; none by default.
        grpc: Option<SocketAddr> = None, Address "ADDR:PORT", flag "grpc-listen";
        /// A Unix socket that also serves HTTP, for clients on this machine; none by default. A stale socket
        /// file of a crashed server is replaced.
        unix: Option<PathBuf> = None, File "PATH", flag "listen-unix";
        /// Who may connect to the Unix socket, as file permissions; by default only its owner.
        unix_mode: u32 = 0o600, Octal "MODE";
        /// Address and port of a listener with only the metrics, the health checks and the models' towers, in
        /// plain HTTP and without keys. The HTTP listener then has no metrics. None by default.
        admin: Option<SocketAddr> = None, Address "ADDR:PORT", flag "admin-listen";
        /// An origin whose pages may call the HTTP listener from a browser (CORS); `*` for all. May be
        /// repeated. None by default.
        cors_origins: Option<List<WebOrigin>> = None, Listed "ORIGIN", flag "cors-origin";
        /// A host name that clients of the HTTP listener may use, such as `siglip.example.com` or
        /// `*.example.com`. May be repeated. Addresses and `localhost` are always accepted. Without a list, a
        /// listener on a loopback address accepts nothing else, so that no web site can make its own name
        /// resolve to it; any other listener accepts every name.
        allowed_hosts: Option<List<Host>> = None, Listed "HOST", flag "allowed-host";
        /// Whether other processes may listen on the same ports at the same time (`SO_REUSEPORT`), for a
        /// restart in place. A server that drains leaves new connections to the others.
        reuse_port: bool = false, Switch "BOOL", flag "reuse-port";
        /// Maximum number of open connections of each listener (HTTP, gRPC, Unix socket); further ones wait to
        /// be accepted. It is lower if the system allows the process too few file descriptors.
        max_connections: usize = 4096, Count "N";
        // Longer than the minute that load balancers idle by default: the side that closes first must not
        // be the server, or a request sent at that moment is lost.
        /// Maximum time for a request's head over HTTP/1, and for an open connection without a request.
        idle_timeout: Duration = Duration::from_secs(75), Time "DURATION";
        /// Maximum time in which a client reads nothing of a response. After that its connection is closed, or
        /// its stream over HTTP/2 and gRPC.
        write_timeout: Duration = Duration::from_secs(30), Time "DURATION";
        /// How long a draining server still accepts new requests while its readiness is red. Set it to the time
        /// that load balancers need to notice.
        drain_delay: Duration = Duration::ZERO, Time "DURATION", flag "drain-delay";
        /// How long a draining server may take to finish accepted requests.
        grace_period: Duration = Duration::from_secs(30), Time "DURATION", flag "grace-period";
    }
}

section! {
    /// TLS of the HTTP and gRPC listeners. Both files must be given, or none. They are read again when they
    /// change.
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
        /// A file of API keys (TOML): `[NAME]`, and below it `key` and optionally `max_concurrent`. It is read
        /// again when it changes. Without it no key is required.
        keys_file: Option<PathBuf> = None, File "FILE", flag "api-keys";
    }
}

section! {
    /// The served models.
    Model {
        /// `demo` for the embedded checkpoint, a folder in Hugging Face layout, or a hub id such as
        /// `google/siglip-base-patch16-224`. May be repeated: requests that name no model use the first one.
        /// The full form is `NAME=SOURCE@REVISION,SETTING=VALUE`, where only the source is required and the
        /// settings are `device`, `dtype`, `threads`, `load` and `idle`.
        source: String = "demo".to_owned(), Models "DIR|HUB_ID", flag "model";
        /// The name that requests use for a single model; by default the source's last path component.
        name: Option<String> = None, Text "NAME";
        /// A further name of a model. May be repeated. The id of a model of the hub is always a further name.
        alias: Option<String> = None, Aliases "ALIAS=NAME";
        /// The hub revision of a single model: a branch, a tag, or a commit, which pins the model.
        revision: Option<String> = None, Text "REVISION", flag "revision";
        /// Where the towers run.
        device: Device = Device::default(), Choice "cpu|cuda[:N]|metal", flag "device";
        /// The type of weights and activations; norms, softmax and scores stay f32. `int8` is for the CPU.
        dtype: DType = DType::default(), Choice "f32|f16|bf16|int8", flag "dtype";
        /// When the towers are loaded: `eager` before the server is ready, `lazy` when the first request needs
        /// them. If a lazy model is from the hub and not in the cache, it is downloaded then too.
        load: LoadTime = LoadTime::default(), Choice "eager|lazy";
        /// After this time without rows, a tower is unloaded. The next request loads it again. The vision tower
        /// and the text tower are unloaded separately. `0s` keeps them loaded.
        idle: Duration = Duration::ZERO, Time "DURATION";
        /// Maximum number of bytes of the weights of all loaded towers; 0 is no limit. If a load would exceed it,
        /// the least recently used tower without rows is unloaded first, of models that are lazy or have an
        /// `idle` time.
        max_resident_bytes: u64 = 0, SizeOrZero "SIZE", flag "max-resident-bytes";
        /// Minimum cosine between embeddings in another type than f32 and those in f32, checked at load on a
        /// few images and texts. A model below it does not start. By default 0.999 for `f16` and `bf16`, and
        /// 0.99 for `int8`. 0 turns the check off, which saves the time of loading the model in f32.
        min_agreement: Option<Agreement> = None, Choice "COSINE", flag "min-agreement";
        /// How f32 is multiplied on a CPU: `highest` uses f32; `high` uses three products of bf16 if the
        /// processor computes these faster (AMX), and otherwise is the same as `highest`. The default is `high`
        /// if it is faster and the check at load finds cosines with `highest` within 1e-9 of 1.
        matmul_precision: Option<MatmulPrecision> = None, Choice "highest|high", flag "matmul-precision";
        /// The kernels for a CUDA device: `own` for the server's, `candle` for candle's operations. With `own`, a batch
        /// is run with both at load; candle's are used if the outputs differ, or if the device is older than Ampere.
        /// `own` multiplies f32 in TF32 only with a `matmul_precision` of `high`.
        cuda_kernels: CudaKernels = CudaKernels::default(), Choice "own|candle", flag "cuda-kernels";
        /// The normalisation of a text before the tokenizer: `auto` as the checkpoint was trained; `hf`,
        /// `bigvision` and `openclip` as each of these references; `none` for no change.
        text_normalization: TextNormalization = TextNormalization::default(), Choice "MODE", flag "text-normalization";
        /// The token before a text for the matching head of a BLIP retrieval checkpoint: `cls` as in
        /// transformers, `enc` as the models were trained. Other models ignore it.
        matching_token: MatchingToken = MatchingToken::default(), Choice "cls|enc", flag "matching-token";
        /// Threads of forward passes on the CPU; 0 means one per physical core. Models with equal numbers
        /// share their threads.
        threads: usize = 0, CountOrZero "N", flag "threads";
        /// Number of CPU replicas of the towers, each on its own cores, that share the rows of a batch. With
        /// many cores, several replicas give more images per second, but a single row takes longer. The weights
        /// are held once.
        replicas: usize = 1, Count "N", flag "replicas";
        /// The instruction set of forward passes on the CPU: `auto` is the fastest one of the processor,
        /// measured at start if necessary; the others pin one, so that different machines give equal vectors.
        cpu_features: CpuFeatures = CpuFeatures::default(), Choice "auto|portable|avx2|avx512|avx512vnni|avx512bf16|amx|neon", flag "cpu-features";
        /// Threads that decode and resize images; 0 means one per core.
        cpu_pool_threads: usize = 0, CountOrZero "N", flag "cpu-pool-threads";
        /// Where images are decoded: `process` is in separate processes, without files and network and with
        /// limits on memory and time, so that no image can harm the server (Linux only; threads are used on
        /// other systems, and if no process can be started); `thread` is on the server's own threads.
        decode_isolation: DecodeIsolation = DecodeIsolation::default(), Choice "process|thread", flag "decode-isolation";
        /// Whether a large JPEG, with at least four times the rows and columns that the model reads, is decoded
        /// at half its size. This takes less time and changes pixels by a few levels of 255 (docs/numerics.md).
        /// It works only in builds with the feature `turbojpeg`, such as the container image; all others decode
        /// every pixel.
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
        /// How long a batch that is not full waits for more rows once the worker is free. 0 is best for latency
        /// and nearly always for throughput, because the next batch fills while one runs.
        max_wait: Duration = Duration::ZERO, Time "DURATION";
        /// Maximum number of rows that wait in one tower's queue.
        max_queue_rows: usize = 8192, Count "N";
        /// How often a model's worker may break and be replaced within an hour. If it breaks once more, the
        /// server drains and exits with code 1.
        max_restarts: usize = 3, CountOrZero "N";
    }
}

section! {
    /// Limits on a request, and on all requests together. A request above a limit gets an error at once.
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
        /// Maximum number of pixels of one image, read from its header before decoding. A side may never have
        /// more than a million.
        max_image_pixels: u64 = 50_000_000, Count "N";
        // SigLIP 2 was trained on up to 1024; attention costs the square of it.
        /// Maximum number of patches of one image that a request may ask for, for models that read images in
        /// variable resolution. The model's own number is always allowed.
        max_num_patches: usize = 1024, Count "N";
        /// Maximum number of bytes that decoding one image may take at its peak, estimated from its header.
        max_decode_bytes: u64 = 512 << 20, Size "SIZE";
        // A JPEG or PNG of 50 megapixels takes about one second.
        /// Maximum processor time of decoding one image, in whole seconds, if images are decoded in separate
        /// processes.
        max_decode_time: Duration = Duration::from_secs(10), Time "DURATION";
        // Two of the largest images at once, or a hundred common ones. This limits memory, not speed.
        /// Maximum number of bytes of all decoding at the same time; further images wait.
        max_decode_bytes_in_flight: u64 = 1 << 30, Size "SIZE";
        /// Maximum depth of arrays and objects in a JSON body.
        max_json_depth: usize = 32, Count "N";
        /// Maximum number of items in the server at once, queued or running.
        max_items_in_flight: usize = 8192, Count "N";
        // Together with the images that are being decoded and fetched, the caches and a base model in f32, this
        // fits into a container of 4 GiB (docs/operations.md has the sum).
        /// Maximum number of request bytes held for items in flight.
        max_bytes_in_flight: usize = 256 << 20, Size "SIZE";
        // A thousand images of two megapixels take about ten seconds of decoding on two cores.
        /// Maximum number of pixels of images in flight that are not decoded yet.
        max_pixels_in_flight: u64 = 2_000_000_000, Count "N";
        /// Maximum number of bytes of features in one response, counted as 32-bit floats.
        max_feature_bytes: usize = 256 << 20, Size "SIZE";
        /// Maximum number of bulk streams at once.
        max_bulk_streams: usize = 16, Count "N";
        /// Maximum number of rows of all bulk streams in the server at once, in addition to the items in
        /// flight.
        max_bulk_rows: usize = 512, Count "N";
        /// Maximum number of bytes held for the rows of bulk streams.
        max_bulk_bytes: usize = 128 << 20, Size "SIZE";
        /// A bulk stream in which no row moves for this time is ended.
        bulk_idle_timeout: Duration = Duration::from_secs(60), Time "DURATION";
        /// A request without a response after this time gets 504.
        request_timeout: Duration = Duration::from_secs(60), Time "DURATION";
    }
}

section! {
    /// Fetching of images by URL. It is off by default, because it lets a client make the server connect to
    /// other hosts.
    Fetch {
        /// Whether a request may name an image by `https` URL.
        enabled: bool = false, Switch "BOOL", flag "fetch";
        /// Whether `http` URLs are fetched too. Others in the network can read and change their content.
        allow_http: bool = false, Switch "BOOL";
        /// The only hosts that are fetched from; by default all. `example.com` means that host, `*.example.com`
        /// every host below it.
        allow_hosts: Option<List<Host>> = None, Listed "HOST";
        /// Hosts that are never fetched from, in the form of `allow_hosts`.
        deny_hosts: Option<List<Host>> = None, Listed "HOST";
        /// The only addresses that the server connects to: networks such as `10.1.0.0/16`, and `public` for all
        /// that are neither private, loopback, link-local (such as cloud metadata) nor otherwise reserved.
        allow_networks: List<Network> = List(vec![Network::Public]), Listed "NETWORK";
        /// Addresses that the server never connects to, in the form of `allow_networks`.
        deny_networks: Option<List<Network>> = None, Listed "NETWORK";
        /// Maximum time of one fetch, redirects included.
        timeout: Duration = Duration::from_secs(10), Time "DURATION";
        /// Maximum number of redirects of one fetch; each one is checked like the URL itself.
        max_redirects: usize = 3, CountOrZero "N";
        // Each fetch holds up to `limits.max_image_bytes` until its image is decoded: 320 MiB with the
        // defaults.
        /// Maximum number of images being fetched, or fetched and not yet decoded, at once.
        max_concurrent: usize = 16, Count "N";
        /// A file of certificates (PEM) to trust in addition to those of the system.
        ca_file: Option<PathBuf> = None, File "FILE";
    }
}

section! {
    /// The embedding cache.
    Cache {
        /// Maximum number of bytes of cached text embeddings. Labels often repeat. 0 turns the cache off.
        text_bytes: u64 = 64 << 20, SizeOrZero "SIZE";
        /// Maximum number of bytes of cached image embeddings. 0 turns the cache off; equal images in flight
        /// are still computed once.
        image_bytes: u64 = 0, SizeOrZero "SIZE";
    }
}

section! {
    /// The log.
    Log {
        /// A level (`info`) or a filter (`info,siglip_server::batch=debug`).
        filter: String = "info".to_owned(), Filter "FILTER";
        /// The format of a line: for people, or one JSON object per line.
        format: LogFormat = LogFormat::default(), Choice "human|json";
    }
}

section! {
    /// Traces (OpenTelemetry). `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` are
    /// read as every OpenTelemetry program reads them.
    Trace {
        /// The address of a collector, such as `http://localhost:4317`; without one nothing is traced.
        endpoint: Option<String> = None, Text "URL", flag "trace-endpoint";
        /// How the collector is spoken to: OTLP over gRPC (port 4317), or over HTTP in protobuf (port 4318).
        protocol: TraceProtocol = TraceProtocol::default(), Choice "grpc|http";
        /// The fraction of requests that are traced, from 0 to 1. A client that says in `traceparent` whether to trace
        /// decides for its own request.
        sample: Fraction = Fraction::WHOLE, Choice "FRACTION";
    }
}
