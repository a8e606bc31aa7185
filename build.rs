//! Compiles the protocol files and records the commit that the binary is built from.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The protocol files, below `proto/`.
const PROTOS: [&str; 2] = ["siglip/v1/embedding.proto", "inference/grpc_service.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=proto");
    println!("cargo::rerun-if-env-changed=SIGLIP_BUILD_COMMIT");
    choose_test_support();
    println!("cargo::rustc-env=SIGLIP_BUILD_TARGET={}", env::var("TARGET")?);
    println!("cargo::rustc-env=SIGLIP_BUILD_COMMIT={}", commit());
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        compile_kernels()?;
    }
    compile_protos()
}

/// Sets the cfg options `failpoints` and `fuzzing` in debug builds, and in builds with the feature of that name.
///
/// Features alone would not do: `cargo test` without options could not run the tests that need them, because a
/// package cannot enable its own features for its tests. A release build has neither unless it asks for them.
fn choose_test_support() {
    let is_debug = env::var_os("PROFILE").is_some_and(|profile| profile == "debug");
    for name in ["failpoints", "fuzzing"] {
        println!("cargo::rustc-check-cfg=cfg({name})");
        let feature = format!("CARGO_FEATURE_{}", name.to_uppercase());
        if is_debug || env::var_os(feature).is_some() {
            println!("cargo::rustc-cfg={name}");
        }
    }
}

/// The CUDA kernels, by NVIDIA's compiler: for Ampere and Hopper, and for what comes after in NVIDIA's assembly language,
/// which the driver translates.
fn compile_kernels() -> Result<(), Box<dyn Error>> {
    const SOURCES: &str = "src/model/device/kernels";
    println!("cargo::rerun-if-changed={SOURCES}");
    for variable in ["NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let of_toolkit =
        |variable| env::var_os(variable).map(|home| PathBuf::from(home).join("bin/nvcc"));
    let nvcc = env::var_os("NVCC")
        .map(PathBuf::from)
        .or_else(|| of_toolkit("CUDA_HOME"))
        .or_else(|| of_toolkit("CUDA_PATH"))
        .or_else(|| Some(PathBuf::from("/usr/local/cuda/bin/nvcc")).filter(|path| path.exists()))
        .unwrap_or_else(|| PathBuf::from("nvcc"));
    let status = Command::new(&nvcc)
        .args(["-fatbin", "-O3", "-std=c++17"])
        .args(["-gencode", "arch=compute_80,code=sm_80"])
        .args(["-gencode", "arch=compute_90,code=[sm_90,compute_90]"])
        .arg("-o")
        .arg(PathBuf::from(env::var("OUT_DIR")?).join("kernels.fatbin"))
        .arg(format!("{SOURCES}/all.cu"))
        .status()
        .map_err(|error| format!("{} cannot be run: {error}", nvcc.display()))?;
    if !status.success() {
        return Err(format!("{} failed on {SOURCES}/all.cu", nvcc.display()).into());
    }
    Ok(())
}

/// The commit from the environment (a container build has no repository), otherwise from git, otherwise
/// `unknown`.
fn commit() -> String {
    if let Some(commit) = env::var("SIGLIP_BUILD_COMMIT").ok().filter(|commit| !commit.is_empty()) {
        return commit;
    }
    // A source tree unpacked inside another repository must not report the commit of that repository. A prefix
    // means that the repository's root is above this folder.
    if git(&["rev-parse", "--show-prefix"]).is_none_or(|prefix| !prefix.is_empty()) {
        return "unknown".to_owned();
    }
    // The reflog of HEAD grows with every commit, checkout and rebase, while `HEAD` itself only changes with
    // the branch. git knows the paths of both in a linked worktree. With a path that does not exist, cargo
    // would run this script on every build.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file])
            && Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned())
}

/// The trimmed output of a git command. `None` if there is no git or no repository.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = output.status.success().then_some(output.stdout)?;
    String::from_utf8(text).ok().map(|text| text.trim().to_owned())
}

/// protox is a compiler in Rust, so no system `protoc` is needed.
fn compile_protos() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(PROTOS, ["proto"])?;
    // The reflection service reads these bytes.
    let path = PathBuf::from(env::var("OUT_DIR")?).join("descriptors.bin");
    fs::write(path, prost::Message::encode_to_vec(&descriptors))?;
    tonic_prost_build::configure()
        // This codec checks the limits of messages before they are decoded.
        .codec_path("crate::grpc::codec::BoundedCodec")
        // Images are slices of the received message, not copies.
        .bytes(".siglip.v1.Image")
        .bytes(".siglip.v1.FeatureMap")
        .bytes(".siglip.v1.EmbedStreamResponse")
        .bytes(".inference")
        .compile_fds(descriptors)?;
    Ok(())
}
