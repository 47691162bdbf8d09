// Return the contrast ratio (WCAG) of every element that has text of its own, against the nearest opaque background.
const channels = color => color.match(/[\d.]+/g).map(Number);
const over = (top, below) => {
  const alpha = top.length > 3 ? top[3] : 1;
  return [0, 1, 2].map(index => alpha * top[index] + (1 - alpha) * below[index]);
};
const luminance = color => {
  const [r, g, b] = color.map(value => value / 255).map(value => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = element => {
  if (!element) return [255, 255, 255];
  const color = channels(getComputedStyle(element).backgroundColor);
  return color.length > 3 && color[3] < 1 ? over(color, behind(element.parentElement)) : color;
};
return [...document.querySelectorAll("body *")]
  .filter(element => !element.closest("caption, script") && [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()))
  .map(element => {
    const back = behind(element);
    const front = over(channels(getComputedStyle(element).color), back);
    const [light, dark] = [luminance(front), luminance(back)].sort((a, b) => b - a);
    return { ratio: (light + 0.05) / (dark + 0.05), text: element.textContent.trim().slice(0, 40), tag: element.tagName };
  });
