// Lets new issues through, and nothing else.

/**
 * @param {import("tidegate-plugin").Event} event
 */
export function filter(event) {
  const { action, issue } = event.request.json();
  return action === "opened" && typeof issue?.title === "string";
}
