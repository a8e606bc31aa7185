//! The methods of `inference.GRPCInferenceService`: the Open Inference Protocol.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::{
    oip_proto::{
        self as proto, grpc_inference_service_server as server, infer_parameter::ParameterChoice,
        model_infer_request::InferInputTensor, model_infer_response::InferOutputTensor,
        model_metadata_response::TensorMetadata,
    },
    service::accept,
    status::status_in_words as status,
};
use crate::{
    build_info,
    config::suggest,
    engine::Engine,
    error::Error,
    oip::{self, Datatype, Elements, InferAnswer, InferRequest, Tensor, TensorSpec},
    registry::{Model, Readiness},
};

/// Known parameters of a request. Only the first two have an effect; the others are for Triton's scheduler and
/// streams.
const PARAMETERS: [&str; 5] =
    ["normalized", "matching_token", "priority", "timeout", "triton_enable_empty_final_response"];

/// The service over an engine.
pub(super) struct InferenceService {
    engine: Arc<Engine>,
}

impl InferenceService {
    pub(super) fn new(engine: Arc<Engine>) -> Self {
        Self { engine }
    }

    fn metadata(
        &self,
        request: &proto::ModelMetadataRequest,
    ) -> Result<proto::ModelMetadataResponse, Error> {
        oip::check_version(&request.version)?;
        let model = self.engine.registry().get(Some(&request.name))?;
        Ok(proto::ModelMetadataResponse {
            name: model.name.clone(),
            versions: vec![oip::VERSION.to_owned()],
            platform: oip::PLATFORM.to_owned(),
            inputs: oip::inputs(model).into_iter().map(tensor_metadata).collect(),
            outputs: oip::outputs(model).into_iter().map(tensor_metadata).collect(),
        })
    }
}

/// Triton's configuration of a model.
fn config(model: &Model) -> proto::ModelConfig {
    let input = |spec: TensorSpec| proto::ModelInput {
        name: spec.name.to_owned(),
        data_type: data_type(spec.datatype).into(),
        dims: spec.shape,
        // Images or texts alone are enough.
        optional: true,
    };
    let output = |spec: TensorSpec| proto::ModelOutput {
        name: spec.name.to_owned(),
        data_type: data_type(spec.datatype).into(),
        dims: spec.shape,
    };
    proto::ModelConfig {
        name: model.name.clone(),
        platform: oip::PLATFORM.to_owned(),
        max_batch_size: 0,
        input: oip::inputs(model).into_iter().map(input).collect(),
        output: oip::outputs(model).into_iter().map(output).collect(),
    }
}

fn data_type(datatype: Datatype) -> proto::DataType {
    match datatype {
        Datatype::Bytes => proto::DataType::TypeString,
        Datatype::Fp32 => proto::DataType::TypeFp32,
        Datatype::Int64 => proto::DataType::TypeInt64,
    }
}

fn tensor_metadata(spec: TensorSpec) -> TensorMetadata {
    TensorMetadata {
        name: spec.name.to_owned(),
        datatype: spec.datatype.name().to_owned(),
        shape: spec.shape,
    }
}

/// Reads an inference request.
///
/// # Errors
/// `invalid_request` for tensors whose elements are missing.
fn read(message: proto::ModelInferRequest) -> Result<InferRequest, Error> {
    oip::check_version(&message.model_version)?;
    let raw = message.raw_input_contents;
    if !raw.is_empty() && raw.len() != message.inputs.len() {
        let message = format!("{} inputs, but {} raw contents", message.inputs.len(), raw.len());
        return Err(Error::invalid("raw_input_contents", message));
    }
    let mut raw = raw.into_iter();
    let inputs = message.inputs.into_iter().map(|input| tensor(input, raw.next()));
    check_parameters("parameters", &message.parameters, &PARAMETERS)?;
    for output in &message.outputs {
        let place = format!("{}.parameters", output.name);
        check_parameters(&place, &output.parameters, &["binary_data"])?;
    }
    let parameter = |name| message.parameters.get(name).map(|value| &value.parameter_choice);
    let normalize = match parameter("normalized") {
        None => true,
        Some(Some(ParameterChoice::BoolParam(normalize))) => *normalize,
        Some(_) => return Err(Error::invalid("parameters.normalized", "must be a bool")),
    };
    let matching_token = match parameter("matching_token") {
        None => None,
        Some(Some(ParameterChoice::StringParam(word))) => Some(
            word.parse().map_err(|message| Error::invalid("parameters.matching_token", message))?,
        ),
        Some(_) => return Err(Error::invalid("parameters.matching_token", "must be a string")),
    };
    Ok(InferRequest {
        model: Some(message.model_name).filter(|name| !name.is_empty()),
        inputs: inputs.collect::<Result<_, _>>()?,
        outputs: message.outputs.into_iter().map(|output| output.name).collect(),
        normalize,
        matching_token,
    })
}

/// Refuses unknown parameters, because a result that ignores them would not be what the client requested.
///
/// * `place`: the owner of the parameters
/// * `known`: parameters that are read, or that may be ignored
///
/// # Errors
/// `invalid_request`, which names the first unknown one.
fn check_parameters<V>(
    place: &str,
    given: &HashMap<String, V>,
    known: &[&'static str],
) -> Result<(), Error> {
    let unknown = given.keys().filter(|name| !known.contains(&name.as_str())).min();
    unknown.map_or(Ok(()), |name| {
        let near = suggest(name, known.iter().copied());
        Err(Error::invalid(format!("{place}.{name}"), format!("unknown parameter{near}")))
    })
}

fn tensor(input: InferInputTensor, raw: Option<Bytes>) -> Result<Tensor, Error> {
    let place = format!("{}.parameters", input.name);
    check_parameters(&place, &input.parameters, &["content_type"])?;
    let InferInputTensor { name, datatype, shape, contents, .. } = input;
    let elements = match (raw, contents) {
        (Some(raw), None) => Elements::Raw(raw),
        (None, Some(contents)) => match &*datatype {
            "BYTES" => Elements::Bytes(contents.bytes_contents),
            "FP32" => Elements::Floats(contents.fp32_contents),
            "INT64" => Elements::Integers(contents.int64_contents),
            _ => Elements::Integers(contents.int_contents.into_iter().map(Into::into).collect()),
        },
        (Some(_), Some(_)) => return Err(Error::invalid(name, "has its elements twice")),
        (None, None) => return Err(Error::invalid(name, "has no elements")),
    };
    Ok(Tensor { name, datatype, shape, elements })
}

fn written(answer: &InferAnswer, id: String) -> proto::ModelInferResponse {
    // Counts are far below this limit.
    let size = |size: usize| i64::try_from(size).unwrap_or(i64::MAX);
    let tensor = |output: &oip::Output| InferOutputTensor {
        name: output.name.to_owned(),
        datatype: output.datatype().name().to_owned(),
        shape: output.shape().into_iter().map(size).collect(),
        ..Default::default()
    };
    proto::ModelInferResponse {
        model_name: answer.model.to_string(),
        model_version: oip::VERSION.to_owned(),
        id,
        outputs: answer.outputs.iter().map(tensor).collect(),
        raw_output_contents: answer.outputs.iter().map(oip::Output::to_raw).collect(),
        ..Default::default()
    }
}

#[tonic::async_trait]
impl server::GrpcInferenceService for InferenceService {
    async fn server_live(
        &self,
        _: Request<proto::ServerLiveRequest>,
    ) -> Result<Response<proto::ServerLiveResponse>, Status> {
        Ok(Response::new(proto::ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<proto::ServerReadyRequest>,
    ) -> Result<Response<proto::ServerReadyResponse>, Status> {
        let ready = self.engine.registry().readiness() == Readiness::Ready;
        Ok(Response::new(proto::ServerReadyResponse { ready }))
    }

    async fn model_ready(
        &self,
        request: Request<proto::ModelReadyRequest>,
    ) -> Result<Response<proto::ModelReadyResponse>, Status> {
        let proto::ModelReadyRequest { name, version } = request.into_inner();
        let ready =
            oip::check_version(&version).is_ok() && self.engine.registry().get(Some(&name)).is_ok();
        Ok(Response::new(proto::ModelReadyResponse { ready }))
    }

    async fn server_metadata(
        &self,
        _: Request<proto::ServerMetadataRequest>,
    ) -> Result<Response<proto::ServerMetadataResponse>, Status> {
        Ok(Response::new(proto::ServerMetadataResponse {
            name: oip::PLATFORM.to_owned(),
            version: build_info::VERSION.to_owned(),
            // Over gRPC, raw tensors are part of the protocol, not an extension.
            extensions: vec!["model_configuration".to_owned()],
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<proto::ModelMetadataRequest>,
    ) -> Result<Response<proto::ModelMetadataResponse>, Status> {
        self.metadata(request.get_ref()).map(Response::new).map_err(status)
    }

    async fn model_config(
        &self,
        request: Request<proto::ModelConfigRequest>,
    ) -> Result<Response<proto::ModelConfigResponse>, Status> {
        let proto::ModelConfigRequest { name, version } = request.into_inner();
        oip::check_version(&version).map_err(status)?;
        let model = self.engine.registry().get(Some(&name)).map_err(status)?;
        Ok(Response::new(proto::ModelConfigResponse { config: Some(config(model)) }))
    }

    async fn model_infer(
        &self,
        request: Request<proto::ModelInferRequest>,
    ) -> Result<Response<proto::ModelInferResponse>, Status> {
        let (mut message, call) = accept(request).map_err(status)?;
        let id = std::mem::take(&mut message.id);
        let request = read(message).map_err(status)?;
        let answer = oip::infer(&self.engine, request, &call.context()).await.map_err(status)?;
        Ok(Response::new(written(&answer, id)))
    }
}
