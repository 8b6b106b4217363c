import { toBytes, toText } from "./bytes.js";
import { Failure } from "./failure.js";

/** What a plugin may ask of the gateway, over the functions of the WIT's interfaces. */
export class Host {
  #gateway;

  constructor(gateway, kv) {
    this.#gateway = gateway;
    this.kv = kv;
  }

  log(level, message) {
    if (!["debug", "info", "warn", "error"].includes(level)) throw new TypeError(`there is no level ${level}`);
    this.#gateway.log.write(level, toText(String(message), "a message"));
  }

  debug(message) {
    this.log("debug", message);
  }

  info(message) {
    this.log("info", message);
  }

  warn(message) {
    this.log("warn", message);
  }

  error(message) {
    this.log("error", message);
  }

  configText() {
    return this.#gateway.config.get();
  }

  config() {
    try {
      return JSON.parse(this.configText());
    } catch (error) {
      throw Failure.never("bad-config", `the plugin's configuration: ${error.message}`);
    }
  }

  secret(name) {
    return this.#gateway.secret.get(toText(name, "a secret's name")) ?? null;
  }

  now() {
    return Number(this.#gateway.clock.now());
  }

  randomBytes(length) {
    if (!Number.isInteger(length) || length < 0 || length > 0xffffffff) throw new RangeError(`${length} is no number of bytes`);
    return this.#gateway.random.bytes(length);
  }

  /** Read from bytes: the engine would round the WIT's number to what a double can hold. */
  randomNumber() {
    return this.randomBytes(8).reduce((number, byte) => (number << 8n) | BigInt(byte), 0n);
  }

  hmac(algorithm, secretName, message) {
    checkAlgorithm(algorithm);
    return this.#gateway.hmac.sign(algorithm, toText(secretName, "a secret's name"), toBytes(message, "a message")) ?? null;
  }

  hmacVerify(algorithm, secretName, message, tag) {
    checkAlgorithm(algorithm);
    const name = toText(secretName, "a secret's name");
    return this.#gateway.hmac.verify(algorithm, name, toBytes(message, "a message"), toBytes(tag, "a tag")) ?? null;
  }
}

function checkAlgorithm(algorithm) {
  if (!["sha1", "sha256", "sha512"].includes(algorithm)) throw new TypeError(`there is no algorithm ${algorithm}`);
}
