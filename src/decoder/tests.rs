use super::*;

fn decoder(program: Option<&str>) -> Decoder {
    let settings = Settings {
        isolation: DecodeIsolation::Process,
        max_time: Duration::from_secs(10),
        program: program.map(PathBuf::from),
    };
    Decoder::new(settings, &Arc::new(Metrics::new()))
}

#[test]
fn threads_decode_where_no_process_can_be_had() {
    // The cases are no program, one that does not exist, one that ends at once, and one that does not know the
    // protocol.
    for program in [None, Some("/nowhere"), Some("/bin/true"), Some("/bin/echo")] {
        let decoder = decoder(program);
        assert_eq!(decoder.isolation(), DecodeIsolation::Thread, "{program:?}");
        let limits = ImageLimits { max_bytes: 9, max_pixels: 9, max_decode_bytes: 9 };
        let error = decoder.inspect(b"no image", &limits).expect_err("is none");
        assert_eq!(error.code(), Code::UndecodableImage);
    }
}
