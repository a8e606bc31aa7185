//! The Open Inference Protocol over gRPC, against the native service of the same server.

use siglip_server::grpc::{
    oip_proto::{
        self as oip, grpc_inference_service_client::GrpcInferenceServiceClient as Client,
        model_infer_request::InferInputTensor,
    },
    proto,
};

use super::Served;

fn picture() -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/images");
    std::fs::read(format!("{folder}/cat.png")).expect("cat.png")
}

fn tensor(shape: Vec<i64>) -> InferInputTensor {
    let (name, datatype) = ("IMAGE".to_owned(), "BYTES".to_owned());
    InferInputTensor { name, datatype, shape, ..Default::default() }
}

fn floats(raw: &[u8]) -> Vec<f32> {
    raw.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

#[tokio::test]
async fn raw_and_typed_contents_give_the_native_embedding() {
    let served = Served::ready(|_| {}).await;
    let mut client = Client::new(served.channel.clone());
    let bytes = picture();
    let mut raw = (bytes.len() as u32).to_le_bytes().to_vec();
    raw.extend(&bytes);
    let typed = InferInputTensor {
        contents: Some(oip::InferTensorContents {
            bytes_contents: vec![bytes.clone().into()],
            ..Default::default()
        }),
        ..tensor(vec![1, 1])
    };
    let request = |input, raw_input_contents| oip::ModelInferRequest {
        model_name: "fake".to_owned(),
        id: "7".to_owned(),
        inputs: vec![input],
        raw_input_contents,
        ..Default::default()
    };
    let content = proto::input::Content::Image(proto::Image {
        source: Some(proto::image::Source::Encoded(bytes.into())),
    });
    let input = vec![proto::Input { content: Some(content) }];
    let native =
        proto::embedding_service_client::EmbeddingServiceClient::new(served.channel.clone())
            .embed(proto::EmbedRequest { input, ..Default::default() })
            .await
            .expect("embeds")
            .into_inner();
    for request in [request(typed, vec![]), request(tensor(vec![1]), vec![raw.into()])] {
        let answer = client.model_infer(request).await.expect("infers").into_inner();
        assert_eq!((answer.model_name.as_str(), answer.id.as_str()), ("fake", "7"));
        assert_eq!(
            (&*answer.outputs[0].name, &answer.outputs[0].shape[..]),
            ("EMBEDDING", &[1, 4][..])
        );
        let native = native.embeddings.as_ref().expect("embeddings");
        assert_eq!(floats(&answer.raw_output_contents[0]), native.values);
    }
    assert_eq!(served.counted("/inference.GRPCInferenceService/ModelInfer", "ok"), 2);
}

#[tokio::test]
async fn failures_carry_the_code_and_the_tensor() {
    let served = Served::ready(|_| {}).await;
    let mut client = Client::new(served.channel.clone());
    let request = oip::ModelInferRequest {
        inputs: vec![tensor(vec![1])],
        raw_input_contents: vec![vec![9, 0, 0, 0, 1].into()],
        ..Default::default()
    };
    let status = client.model_infer(request.clone()).await.expect_err("cut off");
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    assert_eq!(status.metadata().get("siglip-field").expect("a field"), "IMAGE");
    assert!(status.message().starts_with("IMAGE: "), "{}", status.message());
    let request = oip::ModelInferRequest { model_version: "2".to_owned(), ..request };
    let status = client.model_infer(request).await.expect_err("no such version");
    assert_eq!(status.code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn parameters_that_nothing_reads_are_refused_by_name() {
    use oip::{InferParameter, infer_parameter::ParameterChoice as Choice};
    let served = Served::ready(|_| {}).await;
    let mut client = Client::new(served.channel.clone());
    let one = |name: &str, choice| {
        let parameter = InferParameter { parameter_choice: Some(choice) };
        [(name.to_owned(), parameter)].into_iter().collect()
    };
    let bytes = picture();
    let mut raw = (bytes.len() as u32).to_le_bytes().to_vec();
    raw.extend(&bytes);
    let request = oip::ModelInferRequest {
        inputs: vec![tensor(vec![1])],
        raw_input_contents: vec![raw.into()],
        ..Default::default()
    };
    let output = oip::model_infer_request::InferRequestedOutputTensor {
        name: "EMBEDDING".to_owned(),
        ..Default::default()
    };
    // Parameters that Triton's clients send and this server ignores.
    let mut known = request.clone();
    known.parameters = one("priority", Choice::Uint64Param(1));
    known.parameters.extend(one("timeout", Choice::Int64Param(1_000_000)));
    let streamed = one("triton_enable_empty_final_response", Choice::BoolParam(true));
    known.parameters.extend(streamed);
    known.inputs[0].parameters = one("content_type", Choice::StringParam("raw".to_owned()));
    client.model_infer(known).await.expect("infers");

    let mut sequence = request.clone();
    sequence.parameters = one("sequence_id", Choice::Int64Param(7));
    let mut misspelt = request.clone();
    misspelt.parameters = one("normalised", Choice::BoolParam(false));
    let mut shared = request.clone();
    shared.inputs[0].parameters = one("shared_memory_region", Choice::StringParam("a".to_owned()));
    let mut classes = request;
    classes.outputs = vec![output];
    classes.outputs[0].parameters = one("classification", Choice::Int64Param(3));
    for (request, field, words) in [
        (sequence, "parameters.sequence_id", "unknown parameter"),
        (misspelt, "parameters.normalised", "did you mean `normalized`?"),
        (shared, "IMAGE.parameters.shared_memory_region", "unknown parameter"),
        (classes, "EMBEDDING.parameters.classification", "unknown parameter"),
    ] {
        let status = client.model_infer(request).await.expect_err(field);
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{field}");
        assert_eq!(status.metadata().get("siglip-field").expect("a field"), field);
        assert!(status.message().contains(words), "{}", status.message());
    }
}

#[tokio::test]
async fn readiness_follows_the_model() {
    let served = Served::start(|_| {}).await;
    let mut client = Client::new(served.channel.clone());
    let ready = async |client: &mut Client<_>| {
        let request = oip::ModelReadyRequest { name: "fake".to_owned(), ..Default::default() };
        let model = client.model_ready(request).await.expect("answers").into_inner().ready;
        let server = client.server_ready(oip::ServerReadyRequest {}).await.expect("answers");
        (server.into_inner().ready, model)
    };
    assert!(
        client.server_live(oip::ServerLiveRequest {}).await.expect("answers").into_inner().live
    );
    assert_eq!(ready(&mut client).await, (false, false));
    served.load();
    assert_eq!(ready(&mut client).await, (true, true));
    let request = oip::ModelMetadataRequest { name: "fake".to_owned(), ..Default::default() };
    let metadata = client.model_metadata(request).await.expect("known").into_inner();
    let names: Vec<_> = metadata.inputs.iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["IMAGE", "PIXEL_VALUES"]);
    let request = oip::ModelConfigRequest { name: "fake".to_owned(), ..Default::default() };
    let config = client.model_config(request).await.expect("known").into_inner().config;
    let config = config.expect("a model");
    assert_eq!((config.max_batch_size, config.output[0].data_type()), (0, oip::DataType::TypeFp32));
    assert_eq!(config.input[0].data_type(), oip::DataType::TypeString);
    assert!(config.input.iter().all(|tensor| tensor.optional));
}
