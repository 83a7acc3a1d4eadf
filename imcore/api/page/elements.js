/**
 * The few things that the page does with elements. Text goes in as text only, so nothing that people write is ever
 * markup.
 */

export function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

export function makeButton(className, text, act) {
  const button = make("button", className, text);
  button.type = "button"; // otherwise it would send the form around it
  button.addEventListener("click", act);
  return button;
}

/** Name an element whose text does not: for those who hear the page, and for those who point at it. */
export function label(element, text) {
  element.setAttribute("aria-label", text);
  element.title = text;
}

/** Touches the element only if the text is another: what is announced is announced once. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A person's initial on a person's colour. */
export function paint(avatar, mid, name) {
  avatar.textContent = [...name.trim()][0]?.toLocaleUpperCase() ?? "?";
  avatar.dataset.colour = String(mid % 8);
}

/** Make `nodes` the children of `parent`, and leave alone those that stand where they belong. */
export function arrange(parent, nodes) {
  let at = parent.firstChild;
  for (const node of nodes) {
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}
