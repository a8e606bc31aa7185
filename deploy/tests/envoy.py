"""The configuration of Envoy, read into Envoy's own message types: an unknown field or a wrong type is an error.
Envoy itself is in no registry of packages, so it does not run here."""

import importlib

import yaml
from common import DEPLOY, check
from envoy_data_plane.envoy.config.bootstrap.v3 import Bootstrap

# The types that stand in `typed_config`; importing a module makes its types known.
for module in (
    "extensions.filters.network.http_connection_manager.v3",
    "extensions.filters.http.router.v3",
    "extensions.retry.host.previous_hosts.v3",
    "extensions.upstreams.http.v3",
):
    importlib.import_module(f"envoy_data_plane.envoy.{module}")


def refused(config):
    try:
        Bootstrap.from_dict(config)
    except Exception:
        return True
    return False


def main():
    config = yaml.safe_load((DEPLOY / "proxies" / "envoy.yaml").read_text())
    boot = Bootstrap.from_dict(config)
    check(len(boot.static_resources.listeners) == 2, "two listeners")
    check([it.lb_policy.name for it in boot.static_resources.clusters] == ["LEAST_REQUEST"] * 2, "least request")
    config["static_resources"]["clusters"][0]["connect_timeouts"] = "1s"
    check(refused(config), "a field that Envoy does not have is noticed")


main()
