"""Reads deploy/kubernetes: is each manifest valid, and does it give the program what it needs?

Without arguments it checks the files. `manifests.py run BINARY DATABASE_URL` also starts the
program as the pods do, beside the Services of the same namespace. Needs PyYAML and
kubernetes-validate.
"""

import ipaddress
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import kubernetes_validate
import yaml

ROOT = Path("deploy/kubernetes")
# The schemas of these kinds are their operators'; docs/deploying.md says what was read.
FOREIGN = {"postgresql.cnpg.io/v1", "monitoring.coreos.com/v1"}
# The oldest version with `preStop.sleep` switched on, and the newest known.
VERSIONS = ("1.30", "1.37")
APP = {"app.kubernetes.io/name": "quartet"}
# Addresses that stand for all public ones.
PUBLIC = ("93.184.216.34", "2606:2800:220:1::1")
PRIVATE = (
    "10.1.2.3", "100.64.0.1", "127.0.0.1", "172.16.0.1", "192.168.1.1", "198.18.0.1", "224.0.0.1",
    "fd00::1", "fe80::1", "::1",
    # Clouds offer a machine's credentials there; the last ones are other ways to write the first.
    "169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254",
    "fd20:ce::254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "2001:0:a9fe:a9fe::1",
)
# Ports that no pod of ours has to reach outside.
OTHER_PORTS = (22, 25, 53, 5432, 6379, 8080)
NODE_LOCAL_DNS = "169.254.20.10"

problems = []


def require(holds, message):
    if not holds:
        problems.append(message)


# What kustomize would apply


class Manifests:
    def __init__(self, root):
        self.documents, self.settings, seen = [], {}, set()
        self._read(root, seen)
        # Values for a chart, which no kustomization names.
        unread = set(root.rglob("*.*")) - seen - {root / "monitoring/prometheus-adapter.yaml"}
        require(not unread, f"no kustomization names {sorted(map(str, unread))}")

    def _read(self, folder, seen):
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
        seen.add(folder / "kustomization.yaml")
        for resource in kustomization["resources"]:
            path = folder / resource
            if path.is_dir():
                self._read(path, seen)
                continue
            seen.add(path)
            self.documents += [one for one in yaml.safe_load_all(path.read_text()) if one]
        for generator in kustomization.get("configMapGenerator", []):
            for name in generator["envs"]:
                seen.add(folder / name)
                lines = (folder / name).read_text().splitlines()
                pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
                self.settings.setdefault(generator["name"], {}).update(pairs)

    def of_kind(self, kind):
        return [one for one in self.documents if one["kind"] == kind]

    def workloads(self):
        """(name, pod template) of everything that has pods."""
        with_pods = [one for one in self.documents if "template" in one.get("spec", {})]
        return [(one["metadata"]["name"], one["spec"]["template"], one) for one in with_pods]


def labels_of(template):
    return template["metadata"]["labels"]


def selects(selector, labels):
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for rule in selector.get("matchExpressions", []):
        is_in = labels.get(rule["key"]) in rule.get("values", [])
        if rule["operator"] == "In" and not is_in or rule["operator"] == "NotIn" and is_in:
            return False
    return True


# Valid, and as locked down as the image allows


def check_schemas(manifests):
    checked = 0
    for document in manifests.documents:
        if document["apiVersion"] in FOREIGN:
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(document, version, strict=True)
        checked += 1
    require(checked >= 10, f"only {checked} manifests have a schema")
    return checked


def check_pods(manifests):
    for name, template, document in manifests.workloads():
        pod = template["spec"]
        require(pod["securityContext"].get("runAsNonRoot"), f"{name}: runAsNonRoot is not set")
        require(
            pod.get("automountServiceAccountToken") is False,
            f"{name}: automountServiceAccountToken is not false",
        )
        require(
            pod.get("enableServiceLinks") is False,
            f"{name}: enableServiceLinks is not false: a Service named quartet would set "
            "QUARTET_PORT in its pods",
        )
        for container in pod["containers"]:
            security = container["securityContext"]
            require(security.get("readOnlyRootFilesystem"), f"{name}: writable root file system")
            require(
                security.get("allowPrivilegeEscalation") is False,
                f"{name}: allowPrivilegeEscalation is not false",
            )
            require(
                security.get("capabilities") == {"drop": ["ALL"]}, f"{name}: keeps capabilities"
            )
        selector = document["spec"].get("selector", {})
        require(
            selects(selector, labels_of(template)), f"{name}: its selector misses its own pods"
        )


# What the program needs


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(s|m)", text).groups()
    return int(number) * (60 if unit == "m" else 1)


def listen_port(settings):
    return int(settings.get("QUARTET_HTTP__LISTEN", "127.0.0.1:8080").rsplit(":", 1)[1])


def check_settings(manifests, settings):
    listen = settings.get("QUARTET_HTTP__LISTEN", "127.0.0.1:8080")
    require(
        listen.startswith(("0.0.0.0:", "[::]:")),
        f"QUARTET_HTTP__LISTEN={listen}: nothing reaches it from outside of the pod",
    )
    url = settings.get("QUARTET_HTTP__PUBLIC_URL", "")
    require(url.startswith("https://"), "QUARTET_HTTP__PUBLIC_URL is no https:// URL")
    for name in settings:
        secret = re.search(r"TOKEN|SECRET|KEY|PASSWORD|DATABASE_URL", name)
        require(not secret, f"{name} is a secret and stands in the config map")

    port, scheme = listen_port(settings), "HTTP"
    if "QUARTET_HTTP__TLS_CERTIFICATE" in settings:
        scheme = "HTTPS"
    grace = seconds(settings.get("QUARTET_WORKER__SHUTDOWN_GRACE", "30s"))
    for name, template, document in manifests.workloads():
        pod, (container,) = template["spec"], template["spec"]["containers"]
        env = {variable["name"]: variable for variable in container.get("env", [])}
        require("DATABASE_URL" in env, f"{name}: has no DATABASE_URL")
        if container["args"][0] != "serve":
            continue
        ports = {one["name"]: one["containerPort"] for one in container["ports"]}
        require(
            port in ports.values(), f"{name}: listens on {port}, its containerPorts are {ports}"
        )
        for probe, path in (("livenessProbe", "/health/live"), ("readinessProbe", "/health/ready")):
            get = container[probe]["httpGet"]
            asked = ports.get(get["port"], get["port"])
            require(asked == port, f"{name}: its {probe} asks port {asked}, not {port}")
            require(get["path"] == path, f"{name}: its {probe} asks {get['path']}, not {path}")
            require(get.get("scheme", "HTTP") == scheme, f"{name}: its {probe} is not {scheme}")
        sources = [source for source in container.get("envFrom", [])]
        maps = [source["configMapRef"]["name"] for source in sources if "configMapRef" in source]
        require(
            all(one in manifests.settings for one in maps) and maps,
            f"{name}: takes its settings from {maps}, which nothing makes",
        )
        require(any("secretRef" in source for source in sources), f"{name}: takes no secrets")
        stop = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        require(
            pod["terminationGracePeriodSeconds"] > stop + grace,
            f"{name}: is killed after {pod['terminationGracePeriodSeconds']} s, but may take "
            f"{stop} s + QUARTET_WORKER__SHUTDOWN_GRACE {grace} s",
        )


def check_connections(manifests, settings):
    each = int(settings.get("QUARTET_DATABASE__MAX_CONNECTIONS", "20"))
    (cluster,) = manifests.of_kind("Cluster")
    most = int(cluster["spec"]["postgresql"]["parameters"]["max_connections"])
    scalers = {
        one["spec"]["scaleTargetRef"]["name"]: one["spec"]["maxReplicas"]
        for one in manifests.of_kind("HorizontalPodAutoscaler")
    }
    processes = 0
    for name, _, document in manifests.workloads():
        if document["kind"] == "Deployment":
            surge = document["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
            processes += scalers.get(name, document["spec"].get("replicas", 1)) + surge
    # Three for superusers; the migration, and a few people.
    needed = processes * each + 3 + 5
    require(
        needed <= most,
        f"{processes} processes with {each} connections each need max_connections {needed}, "
        f"the cluster has {most}",
    )
    initdb = cluster["spec"]["bootstrap"]["initdb"]
    require(initdb["encoding"] == "UTF8", "the database's encoding is not UTF8")
    parameters = cluster["spec"]["postgresql"]["parameters"]
    for name in ("fsync", "full_page_writes", "synchronous_commit"):
        require(parameters.get(name) != "off", f"the cluster switches {name} off")


def check_services(manifests, settings):
    port = listen_port(settings)
    for service in manifests.of_kind("Service"):
        name = service["metadata"]["name"]
        behind = [
            template
            for _, template, _ in manifests.workloads()
            if selects({"matchLabels": service["spec"]["selector"]}, labels_of(template))
        ]
        require(behind, f"the Service {name} selects no pod")
        for template in behind:
            (container,) = template["spec"]["containers"]
            require(
                container["args"][:1] == ["serve"] and "worker" not in container["args"],
                f"the Service {name} leads to pods that do not serve the API",
            )
            ports = {one["name"]: one["containerPort"] for one in container["ports"]}
            for one in service["spec"]["ports"]:
                target = one.get("targetPort", one["port"])
                require(
                    ports.get(target, target) == port,
                    f"the Service {name} leads to port {target}, the program listens on {port}",
                )
    for monitor in manifests.of_kind("PodMonitor"):
        scraped = {
            name
            for name, template, _ in manifests.workloads()
            if selects(monitor["spec"]["selector"], labels_of(template))
        }
        serving = {
            name for name, template, _ in manifests.workloads()
            if template["spec"]["containers"][0]["args"][0] == "serve"
        }
        require(
            scraped == serving, f"Prometheus scrapes {sorted(scraped)}, not {sorted(serving)}"
        )
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            require(endpoint["path"] == "/metrics", f"Prometheus scrapes {endpoint['path']}")
            require(endpoint["port"] == "http", f"Prometheus scrapes port {endpoint['port']}")


# Network policies: who reaches whom


class Network:
    def __init__(self, manifests):
        self.policies = manifests.of_kind("NetworkPolicy")

    def _rules(self, labels, direction):
        """The rules for pods with these labels; `None` where no policy holds for them."""
        kind = {"ingress": "Ingress", "egress": "Egress"}[direction]
        holding = [
            one["spec"]
            for one in self.policies
            if selects(one["spec"]["podSelector"], labels) and kind in one["spec"]["policyTypes"]
        ]
        if not holding:
            return None
        return [rule for spec in holding for rule in spec.get(direction, [])]

    def allows(self, labels, direction, peer, port, protocol="TCP"):
        rules = self._rules(labels, direction)
        if rules is None:
            return True
        side = "from" if direction == "ingress" else "to"
        for rule in rules:
            ports = rule.get("ports")
            fits = ports is None or any(
                one.get("protocol", "TCP") == protocol and one.get("port") in (None, port)
                for one in ports
            )
            peers = rule.get(side)
            if fits and (peers is None or any(self._is(one, peer) for one in peers)):
                return True
        return False

    def is_closed(self, labels, direction):
        return self._rules(labels, direction) is not None

    @staticmethod
    def _is(rule, peer):
        """`peer` is an address, or (labels of its namespace or None for the same one, its own)."""
        if "ipBlock" in rule:
            if not isinstance(peer, str):
                return False
            address = ipaddress.ip_address(peer)
            inside = lambda cidr: address in ipaddress.ip_network(cidr)
            block = rule["ipBlock"]
            return inside(block["cidr"]) and not any(map(inside, block.get("except", [])))
        if isinstance(peer, str):
            return False
        namespace, labels = peer
        if "namespaceSelector" in rule:
            if namespace is None or not selects(rule["namespaceSelector"], namespace):
                return False
        elif namespace is not None:
            return False
        return selects(rule.get("podSelector", {}), labels)


def check_network(manifests, settings):
    network, port = Network(manifests), listen_port(settings)
    namespace = lambda name: {"kubernetes.io/metadata.name": name}
    database = (None, {"cnpg.io/cluster": "quartet-db"})
    dns = (namespace("kube-system"), {"k8s-app": "kube-dns"})
    stranger = (namespace("elsewhere"), {"app": "x"})
    plain = settings.get("QUARTET_NOTIFY__HTTPS_ONLY") != "true"
    for name, template, _ in manifests.workloads():
        labels = labels_of(template)
        args = template["spec"]["containers"][0]["args"]
        serves = args[0] == "serve"
        takes_webhooks = serves and "worker" not in args

        def reaches(peer, port, what, protocol="TCP"):
            require(
                network.allows(labels, "egress", peer, port, protocol),
                f"{name}: no network policy lets it reach {what} ({protocol} {port})",
            )

        def is_reached(by, what):
            require(
                network.allows(labels, "ingress", by, port),
                f"{name}: no network policy lets {what} reach its port {port}",
            )

        for protocol in ("UDP", "TCP"):
            reaches(dns, 53, "the cluster's name server", protocol)
            reaches(NODE_LOCAL_DNS, 53, "NodeLocal DNSCache", protocol)
        reaches(database, 5432, "the database")
        require(
            network.allows(database[1], "ingress", (None, labels), 5432),
            f"{name}: the database's policy does not let it in",
        )
        if serves:
            # The API, too: an operator's preview looks a transaction up.
            for address in PUBLIC:
                reaches(address, 443, f"the third party and clients at {address}")
                if plain:
                    reaches(address, 80, f"clients' http:// callbacks at {address}")
        else:
            for address in PUBLIC:
                require(
                    not network.allows(labels, "egress", address, 443),
                    f"{name}: may reach {address}, and serves nothing",
                )
            monitoring = (namespace("monitoring"), {"app": "prometheus"})
            require(
                not network.allows(labels, "ingress", monitoring, port),
                f"{name}: Prometheus may reach it, and it serves nothing",
            )
        for address in PRIVATE:
            require(
                not network.allows(labels, "egress", address, 443),
                f"{name}: may reach the private address {address}",
            )
        for address in (*PUBLIC, *PRIVATE):
            for other in OTHER_PORTS:
                require(
                    not network.allows(labels, "egress", address, other),
                    f"{name}: may reach port {other} of {address}",
                )
        for port_of_metrics in (5432, 9187, 8000):
            require(
                not network.allows(labels, "ingress", stranger, port_of_metrics),
                f"{name}: another namespace may reach its port {port_of_metrics}",
            )
        if serves:
            is_reached((namespace("monitoring"), {"app": "prometheus"}), "Prometheus")
        if takes_webhooks:
            is_reached((namespace("ingress"), {"app": "ingress"}), "the ingress (posts, webhooks)")
        for by, what in ((stranger, "another namespace"), ((None, {"app": "x"}), "any pod")):
            require(
                not network.allows(labels, "ingress", by, port), f"{name}: {what} may reach it"
            )
            require(
                not network.allows(database[1], "ingress", by, 5432),
                f"{what} may reach the database",
            )
    for direction in ("ingress", "egress"):
        require(
            network.is_closed(database[1], direction),
            f"no network policy guards the database's {direction}",
        )
    for peer, one, what in (
        (database, 5432, "its primary"),
        (dns, 53, "the cluster's name server"),
        (NODE_LOCAL_DNS, 53, "NodeLocal DNSCache"),
        ("10.96.0.1", 443, "Kubernetes' API"),
        ("10.0.0.5", 6443, "Kubernetes' API"),
        (PUBLIC[0], 443, "a backup's object store"),
        (PUBLIC[1], 443, "a backup's object store"),
    ):
        require(
            network.allows(database[1], "egress", peer, one),
            f"the database's pods are shut out from {what} ({one})",
        )
    for address in ("169.254.169.254", "168.63.129.16", "fe80::1"):
        require(
            not network.allows(database[1], "egress", address, 443),
            f"the database's pods may reach {address}",
        )
    for address in (*PUBLIC, *PRIVATE):
        for one in OTHER_PORTS:
            require(
                not network.allows(database[1], "egress", address, one),
                f"the database's pods may reach port {one} of {address}",
            )
    ingress = (namespace("ingress"), {"app": "ingress"})
    require(
        not network.allows(database[1], "ingress", ingress, 5432),
        "the ingress may reach the database",
    )
    require(
        network.allows(database[1], "ingress", database, 5432),
        "the database's standbys are shut out",
    )
    for one in (5432, 8000):
        operator = (namespace("cnpg-system"), {"app.kubernetes.io/name": "cloudnative-pg"})
        require(
            network.allows(database[1], "ingress", operator, one),
            f"the operator of the database is shut out of port {one}",
        )


# What an ingress hands on


def is_handed_on(manifests, path):
    """Whether some rule of an Ingress matches the path, as Kubernetes says of `Prefix`."""
    parts = [part for part in path.split("/") if part]
    for ingress in manifests.of_kind("Ingress"):
        if "defaultBackend" in ingress["spec"]:
            return True
        for rule in ingress["spec"]["rules"]:
            for one in rule["http"]["paths"]:
                prefix = [part for part in one["path"].split("/") if part]
                exact = one["pathType"] == "Exact" and path == one["path"]
                if exact or one["pathType"] != "Exact" and parts[: len(prefix)] == prefix:
                    return True
    return False


def check_ingress(manifests, settings):
    """Clients' and the third party's paths, all of them and no other."""
    api = json.loads(Path("openapi/quartet.json").read_text())["paths"]
    outside = [path for path in api if path.startswith(("/v1/transactions", "/v1/webhooks/"))]
    inside = sorted(set(api) - set(outside)) + [
        "/", "/console", "/console/sign-in", "/metrics", "/health/live", "/health/ready", "/docs",
        "/openapi.json", "/v1", "/v1/operator", "/v1/operator/queues", "/v1/transactionsx",
    ]
    require(len(outside) >= 4 and any("/v1/operator" in one for one in inside), "paths are missing")
    for path in outside:
        require(is_handed_on(manifests, path), f"the ingress does not hand {path} on")
    for path in inside:
        require(not is_handed_on(manifests, path), f"the ingress hands {path} on")
    services = {one["metadata"]["name"]: one for one in manifests.of_kind("Service")}
    host = settings["QUARTET_HTTP__PUBLIC_URL"].removeprefix("https://")
    for ingress in manifests.of_kind("Ingress"):
        secured = {one for tls in ingress["spec"].get("tls", []) for one in tls["hosts"]}
        for rule in ingress["spec"]["rules"]:
            require(rule["host"] == host, f"the ingress is for {rule['host']}, not {host}")
            require(rule["host"] in secured, f"the ingress serves {rule['host']} without TLS")
            for one in rule["http"]["paths"]:
                service = one["backend"]["service"]
                ports = services[service["name"]]["spec"]["ports"]
                require(
                    service["port"]["name"] in {port["name"] for port in ports},
                    f"the ingress leads to a port that the Service {service['name']} has not",
                )


# Secrets in deploy/compose.yaml


def check_compose():
    compose = yaml.safe_load(Path("deploy/compose.yaml").read_text())
    secret = re.compile(r"SECRET|TOKEN|PASSWORD|_KEY|DATABASE_URL")
    taken = 0
    for name, service in compose["services"].items():
        for key in ("command", "entrypoint", "labels"):
            require(
                not secret.search(str(service.get(key, ""))),
                f"{name}: its {key} holds a secret, which everybody on the machine can read",
            )
        test = str(service.get("healthcheck", {}).get("test", ""))
        require(not secret.search(test), f"{name}: its health check holds a secret")
        taken += bool(secret.search(str(service.get("environment", ""))))
    require(taken >= 4, f"only {taken} services take secrets from their environment")


# The program in a pod's environment


def service_links(name, ports):
    """What Kubernetes sets in each pod of the namespace for this Service."""
    prefix, host = name.upper().replace("-", "_"), "10.96.0.17"
    first = ports[0]["port"]
    variables = {
        f"{prefix}_SERVICE_HOST": host,
        f"{prefix}_SERVICE_PORT": str(first),
        f"{prefix}_PORT": f"tcp://{host}:{first}",
    }
    for one in ports:
        port = one["port"]
        if "name" in one:
            port_name = one["name"].upper().replace("-", "_")
            variables[f"{prefix}_SERVICE_PORT_{port_name}"] = str(port)
        link = f"{prefix}_PORT_{port}_TCP"
        variables |= {
            link: f"tcp://{host}:{port}",
            f"{link}_PROTO": "tcp",
            f"{link}_PORT": str(port),
            f"{link}_ADDR": host,
        }
    return variables


def environment_of_services(manifests):
    services = [
        (one["metadata"]["name"], one["spec"]["ports"]) for one in manifests.of_kind("Service")
    ]
    # CloudNativePG makes three for a cluster.
    for cluster in manifests.of_kind("Cluster"):
        for suffix in ("rw", "ro", "r"):
            name = f"{cluster['metadata']['name']}-{suffix}"
            services.append((name, [{"name": "postgres", "port": 5432}]))
    services.append(("kubernetes", [{"name": "https", "port": 443}]))
    variables = {}
    for name, ports in services:
        variables |= service_links(name, ports)
    return variables


def documented_secrets():
    """The secrets that docs/deploying.md creates, as a shell makes them."""
    text = Path("docs/deploying.md").read_text()
    pairs = re.findall(r'--from-literal=(\w+)="(.*?)"(?:\s|$)', text)
    require(pairs, "docs/deploying.md shows no command that creates the secret quartet")
    shell = lambda value: subprocess.check_output(["sh", "-c", f'printf %s "{value}"'], text=True)
    return {name: shell(value) for name, value in pairs}


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def get(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def start_as_pods(manifests, settings, binary, database_url):
    """Each workload's command, in the environment of its pod; only the port is another one."""
    foreign, secrets = environment_of_services(manifests), documented_secrets()
    colliding = [name for name in foreign if name.startswith("QUARTET_")]
    require(len(colliding) > 20, f"only {colliding} collide with the settings")
    workloads = manifests.workloads()
    # As the sync waves say.
    order = lambda one: one[2]["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"]
    for name, template, document in sorted(workloads, key=order):
        (container,) = template["spec"]["containers"]
        env = {**foreign, "DATABASE_URL": database_url}
        if "envFrom" in container:
            env |= settings | secrets
        command = [binary, *container["args"]]
        if container["args"][0] != "serve":
            ended = subprocess.run(
                command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                timeout=120,
            )
            require(ended.returncode == 0, f"{name}: {ended.stdout}{ended.stderr}")
            continue
        port = free_port()
        env["QUARTET_HTTP__LISTEN"] = f"127.0.0.1:{port}"
        with subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        ) as process:
            paths = {container[probe]["httpGet"]["path"] for probe in
                     ("livenessProbe", "readinessProbe")} | {"/metrics"}
            until = time.monotonic() + 60
            while paths and time.monotonic() < until and process.poll() is None:
                paths -= {path for path in paths if get(f"http://127.0.0.1:{port}{path}") == 200}
                time.sleep(0.05)
            process.terminate()
            output = process.communicate(timeout=60)[0]
            require(not paths, f"{name}: {sorted(paths)} did not answer 200:\n{output}")
            require(process.returncode == 0, f"{name}: ended with {process.returncode}:\n{output}")


def main(arguments):
    manifests = Manifests(ROOT)
    settings = manifests.settings["quartet"]
    checked = check_schemas(manifests)
    check_pods(manifests)
    check_settings(manifests, settings)
    check_connections(manifests, settings)
    check_services(manifests, settings)
    check_network(manifests, settings)
    check_ingress(manifests, settings)
    check_compose()
    if arguments[:1] == ["run"]:
        start_as_pods(manifests, settings, os.path.abspath(arguments[1]), arguments[2])
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        return 1
    foreign = len(manifests.documents) - checked
    print(f"{checked} manifests are valid, {foreign} of other operators' kinds are YAML")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
