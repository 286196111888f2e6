//! Named images.

use futures::StreamExt as _;
use kiln_proto::agent;
use kiln_proto::agent::images_client::ImagesClient;
use tonic::transport::Channel;

use crate::view::{
    Image, ImageAttestation, ImageDetail, ImageHistory, ImageLayer, ImageUse, RelatedImage, millis,
};
use crate::{Controller, Failure, files};

fn image(wire: agent::Image) -> Image {
    Image {
        digest: wire.digest,
        id: wire.id,
        names: wire.names,
        platforms: wire.platforms,
        created: wire.created.map(millis),
        bytes: wire.bytes,
        shared_bytes: wire.shared_bytes,
        build_ref: wire.build_ref,
    }
}

fn detail(wire: agent::InspectImageResponse) -> ImageDetail {
    // Layers and history's entries that made one come in the same order.
    let commands: Vec<&str> = wire
        .history
        .iter()
        .filter(|entry| !entry.empty_layer)
        .map(|entry| entry.created_by.as_str())
        .collect();
    let layers = wire
        .layers
        .iter()
        .enumerate()
        .map(|(index, layer)| ImageLayer {
            digest: layer.digest.clone(),
            media_type: layer.media_type.clone(),
            bytes: layer.bytes,
            command: commands
                .get(index)
                .map(|text| (*text).to_owned())
                .unwrap_or_default(),
        })
        .collect();
    let config = serde_json::from_slice::<serde_json::Value>(&wire.config)
        .and_then(|json| serde_json::to_string_pretty(&json))
        .unwrap_or_else(|_| String::from_utf8_lossy(&wire.config).into_owned());
    ImageDetail {
        layers,
        config,
        used_by_total: wire.used_by_total,
        used_by: wire
            .used_by
            .into_iter()
            .map(|used| ImageUse {
                build_ref: used.build_ref,
                created: used.created.map(millis),
            })
            .collect(),
        related: wire
            .related
            .into_iter()
            .map(|other| RelatedImage {
                digest: other.digest,
                names: other.names,
                layers: other.layers,
                shared_layers: other.shared_layers,
            })
            .collect(),
        image: wire.image.map(image).unwrap_or_default(),
        history: wire
            .history
            .into_iter()
            .map(|entry| ImageHistory {
                command: entry.created_by,
                created: entry.created.map(millis),
                bytes: entry.bytes,
                empty: entry.empty_layer,
            })
            .collect(),
        attestations: wire
            .attestations
            .into_iter()
            .map(|a| ImageAttestation {
                r#type: a.predicate_type,
                digest: a.digest,
                platform: a.platform,
            })
            .collect(),
    }
}

impl Controller {
    pub(crate) async fn image_calls(&self) -> Result<ImagesClient<Channel>, Failure> {
        Ok(ImagesClient::new(self.engine().await?.channel()).max_decoding_message_size(64 << 20))
    }

    /// All images.
    pub async fn images(&self) -> Result<Vec<Image>, Failure> {
        let request = agent::ListImagesRequest::default();
        let images = self
            .image_calls()
            .await?
            .list_images(request)
            .await?
            .into_inner()
            .images;
        Ok(images.into_iter().map(image).collect())
    }

    /// One in full.
    pub async fn inspect_image(&self, name: String) -> Result<ImageDetail, Failure> {
        let request = agent::InspectImageRequest {
            name,
            ..Default::default()
        };
        Ok(detail(
            self.image_calls()
                .await?
                .inspect_image(request)
                .await?
                .into_inner(),
        ))
    }

    /// Another name.
    pub async fn tag_image(&self, source: String, target: String) -> Result<(), Failure> {
        self.image_calls()
            .await?
            .tag_image(agent::TagImageRequest { source, target })
            .await?;
        Ok(())
    }

    /// Writes images to one archive on this computer, as `docker save` does; its size.
    pub async fn save_images(&self, names: Vec<String>, path: String) -> Result<i64, Failure> {
        let request = agent::SaveImagesRequest {
            names,
            ..Default::default()
        };
        let chunks = self
            .image_calls()
            .await?
            .save_images(request)
            .await?
            .into_inner();
        let chunks = chunks.map(|chunk| Ok(chunk?.data));
        files::write(&path, chunks).await
    }

    /// Takes in an archive of `docker save` or an OCI layout; the names of its images.
    pub async fn load_images(&self, path: String) -> Result<Vec<String>, Failure> {
        let archive = files::read(&path).await?;
        let chunks = archive.map(|data| agent::ImageChunk { data });
        let loaded = self
            .image_calls()
            .await?
            .load_images(chunks)
            .await?
            .into_inner();
        Ok(loaded
            .images
            .into_iter()
            .flat_map(|image| image.names)
            .collect())
    }

    /// Removes names; the bytes that it freed.
    pub async fn remove_images(&self, names: Vec<String>) -> Result<i64, Failure> {
        let answer = self
            .image_calls()
            .await?
            .remove_images(agent::RemoveImagesRequest { names })
            .await?
            .into_inner();
        match answer.failures.into_iter().next() {
            Some(failure) => Err(Failure::user(
                format!("{} stays: {}", failure.name, failure.reason),
                "",
            )),
            None => Ok(answer.freed_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_get_the_commands_that_made_them() {
        let entry = |created_by: &str, empty_layer| agent::HistoryEntry {
            created_by: created_by.into(),
            empty_layer,
            ..Default::default()
        };
        let wire = agent::InspectImageResponse {
            layers: vec![
                agent::Layer {
                    bytes: 1,
                    ..Default::default()
                },
                agent::Layer {
                    bytes: 2,
                    ..Default::default()
                },
            ],
            history: vec![
                entry("ADD a", false),
                entry("ENV b", true),
                entry("RUN c", false),
            ],
            config: br#"{"os":"linux"}"#.to_vec().into(),
            used_by: vec![agent::ImageUse {
                build_ref: "b1".into(),
                ..Default::default()
            }],
            used_by_total: 51,
            ..Default::default()
        };
        let view = detail(wire);
        let made: Vec<(&str, i64)> = view
            .layers
            .iter()
            .map(|layer| (layer.command.as_str(), layer.bytes))
            .collect();
        assert_eq!(made, [("ADD a", 1), ("RUN c", 2)]);
        assert!(view.config.contains('\n'));
        assert_eq!(
            (view.used_by[0].build_ref.as_str(), view.used_by_total),
            ("b1", 51)
        );
    }
}
