// What cannot be read well: texts with less contrast than 4.5 to 1 against what lies behind them, and controls without a name.
(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => { // whatever notation: the canvas knows them all
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a), 1];
  const behind = (element) => {
    if (!element) return [255, 255, 255, 1];
    const colour = rgba(getComputedStyle(element).backgroundColor);
    return colour[3] === 1 ? colour : over(colour, behind(element.parentElement));
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, other) => {
    const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };
  const faults = [];
  const shown = [...document.body.querySelectorAll("*")].filter((element) => element.checkVisibility({ visibilityProperty: true }));
  for (const element of shown) {
    const hasText = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    const box = element.getBoundingClientRect();
    if (!hasText || box.width <= 1 || box.height <= 1) continue;
    const back = behind(element);
    const ratio = contrast(over(rgba(getComputedStyle(element).color), back), back);
    if (ratio < 4.5) faults.push(`${element.className || element.tagName}: ${element.textContent.slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  for (const control of shown.filter((element) => element.matches("a, button, input, textarea"))) {
    if (!(control.getAttribute("aria-label") ?? control.textContent).trim()) faults.push(`no name: ${control.outerHTML.slice(0, 120)}`);
  }
  return faults;
})()
