"""Does what a conformance case's configuration says: see ../README.md."""

from typing import Any

from tidegate_plugin import (
    Accept,
    Arrival,
    Attempt,
    DeadLetter,
    Default,
    Delivered,
    Event,
    Failure,
    Header,
    Host,
    Judgement,
    Output,
    Reject,
    Request,
    Response,
    Retry,
    Verification,
)


def filter(event: Event, host: Host) -> bool:
    config = host.config()
    if config["do"] == "kv":
        return operate(config, event.request.body, host)[-1] is True
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
        case "kv":
            return answer(operate(config, request.body, host))
    refuse(config)


def verify(arrival: Arrival, host: Host) -> Verification:
    config = host.config()
    match config["do"]:
        case "describe":
            return Reject(arrival_text(arrival, host))
        case "accept":
            return Accept()
        case "reject":
            return Reject(config["reason"])
    refuse_without_table(config, host)


def respond(arrival: Arrival, host: Host) -> Response | None:
    config = host.config()
    match config["do"]:
        case "describe":
            return Response.of_text(200, arrival_text(arrival, host))
        case "none":
            return None
        case "answer":
            headers = [Header(name, data(value)) for name, value in config.get("headers", [])]
            return Response(config["status"], headers, data(config["body"]))
    refuse_without_table(config, host)


def sign(attempt: Attempt, host: Host) -> dict[str, str] | list[tuple[str, bytes]]:
    config = host.config()
    match config["do"]:
        case "describe":
            return {"x-described": attempt_text(attempt, host)}
        case "sign":
            return [(name, data(value)) for name, value in config["headers"]]
    refuse_without_table(config, host)


def judge(attempt: Attempt, response: Response, host: Host) -> Judgement:
    config = host.config()
    match config["do"]:
        case "describe":
            text = f"{response.status}|{headers_text(response.headers)}|{response.body.hex()}|{len(response.attributes)}"
            return DeadLetter(f"{attempt_text(attempt, host)}|{text}")
        case "judge":
            return judgement(config["verdict"])
    refuse_without_table(config, host)


def judgement(verdict: Any) -> Judgement:
    match verdict:
        case "default":
            return Default()
        case "delivered":
            return Delivered()
        case "retry":
            return Retry()
        case {"retry_after_ms": after}:
            return Retry(after)
        case {"dead_letter": reason}:
            return DeadLetter(reason)


def refuse_without_table(config: dict[str, Any], host: Host) -> None:
    """The table's refusal, for whoever has none."""
    if config["do"] == "kv":
        operate(config, b"", host)
    refuse(config)


def operate(config: dict[str, Any], body: bytes, host: Host) -> list[Any]:
    write(config, host)
    results: list[Any] = []
    for op in config["ops"] * config.get("times", 1):
        try:
            results.append(one(op, body, host))
        except Failure as failure:
            if not config.get("catch"):
                raise
            results.append({"failure": failure.code})
    return results


def one(op: dict[str, Any], body: bytes, host: Host) -> Any:
    key, ttl = op["key"], op.get("ttl")
    value = data(op["value"]) if "value" in op else body
    match op["op"]:
        case "get":
            return hexadecimal(host.kv.get(key))
        case "set":
            host.kv.set(key, value, ttl)
            return "done"
        case "add":
            return host.kv.add(key, value, ttl)
        case "delete":
            return host.kv.delete(key)
        case "increment":
            return str(host.kv.increment(key, op["by"], ttl))


def arrival_text(arrival: Arrival, host: Host) -> str:
    return f"{host.now()}|{arrival.received_at}|{request_text(arrival.request)}|{len(arrival.attributes)}"


def attempt_text(attempt: Attempt, host: Host) -> str:
    ids = f"{host.now()}|{attempt.delivery_id}|{attempt.event_id}|{attempt.number}|{attempt.started_at}|{attempt.origin}"
    return f"{ids}|{request_text(attempt.request)}|{len(attempt.attributes)}"


def request_text(request: Request) -> str:
    query = "-" if request.query is None else request.query
    return f"{request.method}|{request.path}|{query}|{headers_text(request.headers)}|{request.body.hex()}"


def headers_text(headers: list[Header]) -> str:
    return ",".join(f"{header.name}={header.value.hex()}" for header in headers)


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
    verified = [
        host.hmac_verify(algorithm, name, data(message), data(tag)) for algorithm, name, message, tag in config.get("hmac_verify", [])
    ]
    return ({"hmac_verify": verified} if "hmac_verify" in config else {}) | {
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
