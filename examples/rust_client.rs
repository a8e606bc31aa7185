//! Orders images by how well they fit a text: `rust_client http://127.0.0.1:8080 'a pizza' photos/*`.

use std::{env, error::Error, fs};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::json;

/// What is read of the response of `/v1/similarity`: a row for each image, a column for each text.
#[derive(Deserialize)]
struct Similarity {
    cosine: Vec<Vec<f32>>,
    /// Null where the model does not judge each pair on its own.
    probability: Option<Vec<Vec<f32>>>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Only where reqwest is built without a provider of cryptography, as it is in this repository.
    rustls::crypto::ring::default_provider().install_default().map_err(|_| "it is installed")?;

    let mut arguments = env::args().skip(1);
    let server = arguments.next().ok_or("the server is missing")?;
    let text = arguments.next().ok_or("the text is missing")?;
    let paths: Vec<String> = arguments.collect();
    let images = paths.iter().map(|path| Ok(STANDARD.encode(fs::read(path)?)));
    let images = images.collect::<Result<Vec<_>, std::io::Error>>()?;

    let request = reqwest::Client::new().post(format!("{server}/v1/similarity"));
    let response = request.json(&json!({"images": images, "texts": [text]})).send().await?;
    if !response.status().is_success() {
        // The body says what is wrong, and with which image.
        return Err(format!("{}: {}", response.status(), response.text().await?).into());
    }
    let similarity: Similarity = response.json().await?;
    let mut order: Vec<usize> = (0..paths.len()).collect();
    order.sort_by(|&a, &b| similarity.cosine[b][0].total_cmp(&similarity.cosine[a][0]));
    for index in order {
        let probability = similarity.probability.as_ref().map(|it| it[index][0]);
        let shown = probability.map_or("-".to_owned(), |it| format!("{:.1} %", it * 100.0));
        println!("{:.4}  {shown:>8}  {}", similarity.cosine[index][0], paths[index]);
    }
    Ok(())
}
