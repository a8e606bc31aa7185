//! The parts of a file that `embed` reads, if it holds several items.

use std::time::Duration;

use clap::Args;

/// Options that choose the items in a file. Without them, columns are found by name and by type.
#[derive(Debug, Default, Clone, Args)]
pub(in crate::cli) struct Selection {
    /// The images of a Parquet file: a column of bytes, of paths, or of `bytes` and `path`; of an archive: members with
    /// this ending
    #[arg(long, value_name = "NAME", conflicts_with = "text_column")]
    pub(super) image_column: Option<String>,
    /// Read the texts of a Parquet file from this column, or those of an archive from members with this ending
    #[arg(long, value_name = "NAME")]
    pub(super) text_column: Option<String>,
    /// The column of a Parquet file that rows go by: texts or integers
    #[arg(long, value_name = "NAME")]
    pub(super) id_column: Option<String>,
    /// The time between two frames of a video (2s by default); with it, videos in folders are read too. Needs ffmpeg
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(super) video_every: Option<Duration>,
}
