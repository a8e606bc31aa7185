# syntax=docker/dockerfile:1
# The server in a small image: one binary with the demo checkpoint inside, no shell script, no root.
#
#   docker build --build-arg SIGLIP_BUILD_COMMIT="$(git rev-parse --short=12 HEAD)" -t siglip-server .
#   docker run --rm --read-only --cap-drop ALL -p 127.0.0.1:8080:8080 siglip-server
#
# With a model of yours inside, from a folder in Hugging Face layout, so that a start needs neither a network nor a volume:
#
#   docker build --target baked --build-context model=/models/siglip-base --build-arg MODEL_NAME=siglip-base -t siglip-base .
#
# With a binary that is built already (`bin/out/siglip-server`, `bin/etc/ssl/certs/ca-certificates.crt`), without a compiler:
#
#   docker build --build-context build=bin -t siglip-server .

# The compiler that Cargo.toml asks for, on the distribution of the final image: one libc on both sides.
FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /build
# For libjpeg-turbo's assembly, whose sources come with a dependency.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends nasm \
    && rm -rf /var/lib/apt/lists/*
COPY . .
# HEIC is coded in HEVC, which is covered by patents in many countries. Without it:
# --build-arg FEATURES="--no-default-features --features avif,jemalloc,jxl,parquet,turbojpeg"
ARG FEATURES="--features turbojpeg"
# A build context has no repository to ask. Declared this late, a new commit does not spoil the layers above.
ARG SIGLIP_BUILD_COMMIT=""
# The caches outlive the layer: after an edit only what changed is compiled, without a made-up copy of the
# sources for the dependencies. The binary has to leave the cache within the same step.
RUN --mount=type=cache,id=siglip-cargo-registry,target=/usr/local/cargo/registry \
    --mount=type=cache,id=siglip-target,target=/build/target \
    SIGLIP_BUILD_COMMIT="$SIGLIP_BUILD_COMMIT" cargo build --release --locked $FEATURES \
        --bin siglip-server \
    && install -D target/release/siglip-server /out/siglip-server

# Stands in for the folder of `--build-context model=FOLDER`.
FROM scratch AS model

FROM docker.io/library/debian:bookworm-slim AS server
ARG SIGLIP_BUILD_COMMIT=""
ARG VERSION=""
LABEL org.opencontainers.image.title="siglip-server" \
      org.opencontainers.image.description="An embedding inference server for SigLIP image-text models" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$SIGLIP_BUILD_COMMIT"
COPY --from=build /out/siglip-server /usr/local/bin/siglip-server
# The certificate authorities for fetching images over https, which is off by default.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# A container's loopback cannot be reached from outside. The published ports decide who can connect.
# gRPC is off by default: SIGLIP_GRPC_LISTEN=0.0.0.0:8081 turns it on.
ENV SIGLIP_LISTEN=0.0.0.0:8080
EXPOSE 8080 8081
# Where a volume with downloads goes (`HF_HOME=/models`): a new volume takes its owner from here.
RUN install -d -o 10001 -g 10001 /models
# A number, so that Kubernetes' runAsNonRoot can check it; the server writes nothing but downloads.
USER 10001:10001
# Readiness, asked by the binary itself: there is no curl in the image. The start period covers a model
# that takes long to load; the demo checkpoint is ready within a second.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["/usr/local/bin/siglip-server", "healthcheck"]
# Begins a drain: readiness turns red, accepted work finishes.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/siglip-server"]

FROM server AS baked
# The name that requests use.
ARG MODEL_NAME=model
COPY --from=model --chown=0:0 . /model
ENV SIGLIP_MODEL=${MODEL_NAME}=/model HF_HUB_OFFLINE=1

# What is built without `--target`.
FROM server
