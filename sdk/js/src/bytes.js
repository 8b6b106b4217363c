/**
 * Text and bytes. QuickJS has neither TextEncoder nor TextDecoder, and a loop over the bytes would be slow in it: base64 and
 * percent-encoding, which it does natively, are the way round.
 */

const native = typeof TextDecoder === "function" && typeof TextEncoder === "function";
const nativeDecoder = native && new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const nativeEncoder = native && new TextEncoder();

/** One well-formed sequence of more than one byte, or else one byte that is part of none. */
const SEQUENCE =
  /[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2}|[\x80-\xff]/g;

const fromSequence = (latin1) => decodeURIComponent(escape(latin1));

/** The text that the bytes are in UTF-8; null if they are not UTF-8. */
export function decode(bytes) {
  try {
    if (native) return nativeDecoder.decode(bytes);
    const latin1 = atob(bytes.toBase64());
    return isAscii(bytes) ? latin1 : fromSequence(latin1);
  } catch {
    return null;
  }
}

/** The same, with a replacement character for each byte that is part of no character. */
export function decodeLossy(bytes) {
  return (
    decode(bytes) ??
    atob(bytes.toBase64()).replace(SEQUENCE, (sequence) => (sequence.length > 1 ? fromSequence(sequence) : "\ufffd"))
  );
}

/** The text in UTF-8; what is no character (half a surrogate pair) becomes a replacement character. */
export function encode(text) {
  if (native) return nativeEncoder.encode(text);
  return Uint8Array.fromBase64(btoa(unescape(encodeURIComponent(text.toWellFormed()))));
}

/** Bytes in hexadecimal digits, lower case. */
export function encodeHex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The bytes that hexadecimal digits of either case stand for; null if the text is anything else. */
export function decodeHex(text) {
  if (text.length % 2 !== 0 || !/^[0-9a-f]*$/i.test(text)) return null;
  return Uint8Array.from({ length: text.length / 2 }, (_, place) => Number.parseInt(text.slice(2 * place, 2 * place + 2), 16));
}

/** Looks at 16 bytes in each turn: in an interpreter it is the turns that cost. */
export function isAscii(bytes) {
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  const words = new Int32Array(aligned.buffer, aligned.byteOffset, (aligned.length >> 4) << 2);
  let seen = 0;
  for (let i = 0; i < words.length; i += 4) seen |= words[i] | words[i + 1] | words[i + 2] | words[i + 3];
  for (let i = words.length * 4; i < aligned.length; i++) seen |= aligned[i] & 0x80;
  return (seen & 0x80808080) === 0;
}

/** Bytes as they are, text in UTF-8. */
export function toBytes(value, what) {
  if (typeof value === "string") return encode(value);
  if (value instanceof Uint8Array) return value;
  throw new TypeError(`${what} must be a string or a Uint8Array`);
}

/** A string that can be handed to the gateway. */
export function toText(value, what) {
  if (typeof value !== "string") throw new TypeError(`${what} must be a string`);
  return value.toWellFormed?.() ?? value;
}
