"""What has to exist before anything can be measured: checkpoints, exported models, inputs."""
