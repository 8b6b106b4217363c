// Lets new issues through, and announces them in a chat. A connection says which of the two it uses.

import { Output } from "tidegate-plugin";

/**
 * The title of an issue that was opened; null for anything else.
 *
 * @param {import("tidegate-plugin").Event} event
 * @returns {string | null}
 */
function title(event) {
  const { action, issue } = event.request.json();
  return action === "opened" && typeof issue?.title === "string" ? issue.title : null;
}

/**
 * @param {import("tidegate-plugin").Event} event
 */
export function filter(event) {
  return title(event) !== null;
}

/**
 * @param {import("tidegate-plugin").Event} event
 * @param {import("tidegate-plugin").Host} host
 */
export function transform(event, host) {
  const opened = title(event);
  if (opened === null) {
    host.info("not about a new issue");
    return [];
  }
  return new Output().clearHeaders().json({ text: `new issue: ${opened}` });
}
