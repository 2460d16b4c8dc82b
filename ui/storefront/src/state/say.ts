// What is told beside the page itself: short messages that come and go, and words for those who do not see it.
import { reactive, ref } from 'vue'

export type Kind = 'plain' | 'good' | 'care' | 'bad'

export interface Toast {
  id: number
  kind: Kind
  text: string
  /** Where a click leads. */
  to?: string
}

export const toasts = reactive<Toast[]>([])
let next = 1

/** Shows a short message for a while. At most three stand at once. */
export function toast(text: string, kind: Kind = 'plain', to?: string): void {
  const t = { id: next++, kind, text, to }
  if (toasts.length >= 3) toasts.shift()
  toasts.push(t)
  setTimeout(() => drop(t.id), kind === 'bad' || to ? 9000 : 5000)
}

export function drop(id: number): void {
  const i = toasts.findIndex((t) => t.id === id)
  if (i >= 0) toasts.splice(i, 1)
}

export const polite = ref('')
export const assertive = ref('')

const quiet = 10_000
let politeAt = 0
let later: ReturnType<typeof setTimeout> | undefined

/** Tells a screen reader when it has nothing else to say. What changes all the time is told at most every 10 s, the newest wins. */
export function murmur(text: string): void {
  clearTimeout(later)
  const wait = politeAt + quiet - Date.now()
  if (wait > 0) {
    later = setTimeout(() => murmur(text), wait)
    return
  }
  politeAt = Date.now()
  polite.value = text
}

/** Tells a screen reader soon, without interrupting it. For changes that come rarely and matter. */
export function tell(text: string): void {
  clearTimeout(later)
  politeAt = Date.now()
  polite.value = text
}

/** Tells a screen reader at once: the result that he waits for. */
export function announce(text: string): void {
  // The same words twice are a change too.
  assertive.value = assertive.value === text ? text + '\u00a0' : text
}
