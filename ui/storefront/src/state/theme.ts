// Light, dark, or as the machine has it.
import { ref } from 'vue'

export const themes = ['auto', 'light', 'dark'] as const
export type Theme = (typeof themes)[number]

const name = 'levee.theme' // read by early.js too, before the first paint

export const theme = ref<Theme>(themes.find((t) => t === document.documentElement.dataset.theme) ?? 'auto')

export function setTheme(t: Theme): void {
  theme.value = t
  document.documentElement.dataset.theme = t
  try {
    localStorage.setItem(name, t)
  } catch {
    // for this visit only
  }
}
