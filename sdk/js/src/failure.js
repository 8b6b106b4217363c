/** Why a plugin could not decide: thrown, it becomes the WIT's `failure`. */
export class Failure extends Error {
  constructor(code, message, retry = "never") {
    super(message);
    this.name = "Failure";
    this.code = code;
    this.retry = retry;
  }

  static never(code, message) {
    return new Failure(code, message, "never");
  }

  static later(code, message) {
    return new Failure(code, message, "later");
  }
}
