// The question before an act: what it will do, why, and sometimes how many.
import { shallowRef } from 'vue'

export interface Question {
  title: string
  /** What the act will do, a sentence each. */
  effect: string[]
  yes: string
  danger?: boolean
  reason?: 'required' | 'optional'
  reasonLabel?: string
  units?: { label: string; help?: string; max?: number }
  /** Must be typed for an act that cannot be taken back. */
  type?: string
  /** Runs it; what it throws is shown in the dialog, which stays. */
  run(given: { reason: string; units: number; keyOf: (body: unknown) => string }): Promise<void>
}

export const question = shallowRef<Question>()
export const confirmAct = (q: Question): void => void (question.value = q)
