use super::*;

fn refused(folder: &Path) -> String {
    match Checkpoint::open(&folder.to_string_lossy()) {
        Ok(_) => panic!("an incomplete checkpoint was opened"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_a_folder_lacks_is_named() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    assert!(refused(&folder.path().join("absent")).contains("neither `demo`, nor a folder"));
    assert!(
        refused(folder.path()).contains("there is neither config.json nor open_clip_config.json")
    );
    fs::write(folder.path().join(CONFIG), "{}")?;
    assert!(refused(folder.path()).contains(WEIGHTS));
    fs::write(folder.path().join("pytorch_model.bin"), "")?;
    assert!(refused(folder.path()).contains("pickle"));
    assert!(refused(&folder.path().join(CONFIG)).contains("it is a file, and the folder"));
    assert!(refused(Path::new("~/no/such/folder")).contains("`~` is the shell's word"));
    Ok(())
}

#[test]
fn an_index_may_not_lead_out_of_its_folder() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join(CONFIG), "{}")?;
    for (shard, named) in [
        ("../weights.safetensors", "safetensors file in the same folder is read"),
        ("/etc/passwd", "safetensors file in the same folder is read"),
        ("a/b.safetensors", "safetensors file in the same folder is read"),
        ("absent.safetensors", "it names `absent.safetensors`, which is not in the folder"),
    ] {
        let index = format!(r#"{{"weight_map": {{"logit_scale": "{shard}"}}}}"#);
        fs::write(folder.path().join(WEIGHTS_INDEX), index)?;
        assert!(refused(folder.path()).contains(named), "{shard}");
    }
    Ok(())
}

#[test]
fn the_revision_follows_the_content() -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let write = |name, bytes: &[u8]| fs::write(folder.path().join(name), bytes);
    let revision = || match Checkpoint::open(&folder.path().to_string_lossy()) {
        Ok(checkpoint) => checkpoint.revision().expect("reads"),
        Err(error) => panic!("{error}"),
    };
    write(CONFIG, b"{}")?;
    let mut weights = [&2u64.to_le_bytes()[..], b"{}", &[7; 5000]].concat();
    write(WEIGHTS, &weights)?;
    let first = revision();
    assert_eq!((first.len(), &first), (16, &revision()));
    weights[4000] = 8;
    write(WEIGHTS, &weights)?;
    assert_ne!(revision(), first);
    weights[4000] = 7;
    write(WEIGHTS, &weights)?;
    write("tokenizer.json", b"{}")?;
    assert_ne!(revision(), first);
    Ok(())
}

#[cfg(target_os = "linux")]
#[test]
fn pipes_and_devices_are_no_files_of_a_checkpoint() -> io::Result<()> {
    for name in [CONFIG, OPEN_CLIP_CONFIG, PREPROCESSOR, WEIGHTS] {
        for is_pipe in [true, false] {
            let folder = tempfile::tempdir()?;
            if name == WEIGHTS {
                fs::write(folder.path().join(CONFIG), "{}")?;
            }
            let path = folder.path().join(name);
            if is_pipe {
                assert!(std::process::Command::new("mkfifo").arg(&path).status()?.success());
            } else {
                std::os::unix::fs::symlink("/dev/zero", &path)?;
            }
            let refused = refused(folder.path());
            assert!(refused.contains("it is not a regular file"), "{name}: {refused}");
            assert!(refused.contains(name), "{name}: {refused}");
        }
    }
    Ok(())
}
