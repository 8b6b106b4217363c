"""Does what a conformance case's configuration says: see ../README.md."""

from typing import Any

from tidegate_plugin import Event, Failure, Host, Output


def filter(event: Event, host: Host) -> bool:
    config = host.config()
    write(config, host)
    if config["do"] == "keep":
        return event.request.body == data(config["body"])
    refuse(config)


def transform(event: Event, host: Host) -> Output | list[Output]:
    config = host.config()
    request = event.request
    match config["do"]:
        case "describe":
            return answer(describe(event))
        case "headers":
            values = request.header_values(config["name"])
            return answer({"first": request.header(config["name"]), "all": [value.hex() for value in values]})
        case "reverse":
            return Output().body(request.body[::-1])
        case "read-json":
            return answer(request.json())
        case "outputs":
            return [output(sent) for _ in range(config.get("times", 1)) for sent in config["outputs"]]
        case "host":
            return answer(ask(config, host))
    refuse(config)


def refuse(config: dict[str, Any]) -> None:
    if config["do"] == "fail":
        raise Failure(config["code"], config["message"], config["retry"])
    if config["do"] == "raise":
        raise ValueError(config["message"])
    raise Failure.never("unknown-case", "nothing to do")


def answer(value: Any) -> Output:
    return Output().method("POST").path("/in").remove_query().clear_headers().json(value)


def describe(event: Event) -> dict[str, Any]:
    request = event.request
    return {
        "id": event.id,
        "accepted_at": event.accepted_at,
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "headers": [[header.name, header.value.hex()] for header in request.headers],
        "body": request.body.hex(),
        "attributes": len(event.attributes),
    }


def output(sent: dict[str, Any]) -> Output:
    output = Output()
    if "method" in sent:
        output.method(sent["method"])
    if "path" in sent:
        output.path(sent["path"])
    if "query" in sent:
        output.query(sent["query"])
    if sent.get("remove_query"):
        output.remove_query()
    for change in sent.get("headers", []):
        match change:
            case ["clear"]:
                output.clear_headers()
            case ["remove", name]:
                output.remove_header(name)
            case ["set", name, value]:
                output.header(name, value if isinstance(value, str) else data(value))
            case ["append", name, value]:
                output.append_header(name, value if isinstance(value, str) else data(value))
    if "body" in sent:
        output.body(data(sent["body"]))
    return output


def ask(config: dict[str, Any], host: Host) -> dict[str, Any]:
    write(config, host)
    return {
        "now": host.now(),
        "secrets": {name: hexadecimal(host.secret(name)) for name in config.get("secrets", [])},
        "hmac": [hexadecimal(host.hmac(algorithm, name, data(message))) for algorithm, name, message in config.get("hmac", [])],
        "random": [host.random_bytes(length).hex() for length in config.get("random", [])],
        "numbers": [str(host.random_number()) for _ in range(config.get("numbers", 0))],
    }


def write(config: dict[str, Any], host: Host) -> None:
    for level, message in config.get("log", []):
        host.log(level, message)


def data(value: str | dict[str, str]) -> bytes:
    return value.encode() if isinstance(value, str) else bytes.fromhex(value["hex"])


def hexadecimal(value: bytes | None) -> str | None:
    return None if value is None else value.hex()
