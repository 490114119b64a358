// @ts-check
/** The emoji picker: a grid of buttons with names, reached by mouse, touch and arrow keys. */

import { h } from './dom.js';

/** @type {[string, string][]} */
const EMOJI = [
  ['😀', 'grinning'], ['😃', 'smiling'], ['😄', 'laughing eyes'], ['😁', 'beaming'], ['😂', 'tears of joy'], ['🤣', 'rolling on the floor'],
  ['😊', 'blushing'], ['😇', 'angel'], ['🙂', 'slight smile'], ['😉', 'wink'], ['😍', 'heart eyes'], ['😘', 'kiss'],
  ['😋', 'yummy'], ['😜', 'crazy'], ['🤗', 'hug'], ['🤔', 'thinking'], ['😐', 'neutral'], ['🙄', 'rolling eyes'],
  ['😏', 'smirk'], ['😴', 'asleep'], ['😷', 'mask'], ['🤒', 'ill'], ['😎', 'sunglasses'], ['🤓', 'nerd'],
  ['😕', 'confused'], ['😮', 'surprised'], ['😳', 'flushed'], ['😢', 'crying'], ['😭', 'sobbing'], ['😱', 'screaming'],
  ['😡', 'angry'], ['🤯', 'mind blown'], ['🥳', 'party'], ['🥺', 'pleading'], ['😈', 'devil'], ['👻', 'ghost'],
  ['👍', 'thumbs up'], ['👎', 'thumbs down'], ['👏', 'clapping'], ['🙌', 'raised hands'], ['🙏', 'thank you'], ['👋', 'waving'],
  ['🤝', 'handshake'], ['💪', 'strong'], ['✌️', 'victory'], ['🤞', 'fingers crossed'], ['👌', 'ok'], ['👀', 'eyes'],
  ['❤️', 'red heart'], ['🧡', 'orange heart'], ['💛', 'yellow heart'], ['💚', 'green heart'], ['💙', 'blue heart'], ['💔', 'broken heart'],
  ['✨', 'sparkles'], ['🔥', 'fire'], ['🎉', 'tada'], ['🎂', 'cake'], ['🎁', 'present'], ['🏆', 'trophy'],
  ['☕', 'coffee'], ['🍕', 'pizza'], ['🍎', 'apple'], ['🍺', 'beer'], ['🌞', 'sun'], ['🌧️', 'rain'],
  ['🐶', 'dog'], ['🐱', 'cat'], ['🦄', 'unicorn'], ['🐢', 'turtle'], ['🚀', 'rocket'], ['🚗', 'car'],
  ['💡', 'idea'], ['📌', 'pin'], ['📎', 'paper clip'], ['✅', 'done'], ['❌', 'cross'], ['❓', 'question'],
];
const COLUMNS = 8;

/**
 * Fills `picker`; opens and closes it with `toggle`.
 * @param {HTMLElement} picker
 * @param {HTMLElement} toggle
 * @param {(emoji: string) => void} chosen
 * @param {() => void} closed
 */
export function emojiPicker(picker, toggle, chosen, closed) {
  const buttons = EMOJI.map(([emoji, name]) =>
    h('button', { type: 'button', 'aria-label': name, title: name, 'data-testid': 'emoji', 'data-emoji': emoji, text: emoji }));
  picker.append(...buttons);

  const open = (/** @type {boolean} */ on) => {
    picker.hidden = !on;
    toggle.setAttribute('aria-expanded', String(on));
    if (on) buttons[0].focus();
    else closed();
  };
  toggle.addEventListener('click', () => open(picker.hidden));
  picker.addEventListener('click', ({ target }) => {
    const emoji = /** @type {HTMLElement} */ (target).dataset.emoji;
    if (emoji) chosen(emoji);
  });
  picker.addEventListener('keydown', (event) => {
    const index = buttons.indexOf(/** @type {HTMLElement} */ (document.activeElement));
    /** @type {Record<string, number>} */
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: COLUMNS, ArrowUp: -COLUMNS };
    if (event.key === 'Escape') open(false);
    else if (event.key in steps) buttons[index + steps[event.key]]?.focus();
    else return;
    event.preventDefault();
  });
  document.addEventListener('pointerdown', ({ target }) => {
    const inside = picker.contains(/** @type {Node} */ (target)) || toggle.contains(/** @type {Node} */ (target));
    if (!picker.hidden && !inside) open(false);
  });
}

/**
 * Whether a text is one to three emoji and nothing else, and is shown large.
 * @param {string} text
 */
export function isEmojiOnly(text) {
  return /^(?:\p{Extended_Pictographic}[\p{Emoji_Modifier}\u200d\ufe0f\p{Extended_Pictographic}]*\s*){1,3}$/u.test(text) && [...text].length <= 12;
}
