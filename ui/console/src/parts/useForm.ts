import { reactive, shallowRef, ref, provide, type InjectionKey } from 'vue'
import { newKey, type Problem, type Refused } from '@levee/shared'
import { asProblem, refusal } from './problem'

export interface Form {
  /** The error at a field, '' when it has none. */
  errorAt(field: string): string
  /** The fields that stand in the form: they show their errors themselves. */
  names: Set<string>
  /** Whether a refused field stands in the form. */
  shows(f: Refused): boolean
}
export const formKey: InjectionKey<Form> = Symbol('form')

/** Gives the same key to the same body, so that sending it twice does it once; another body gets another key. */
export function keyring(): (body: unknown) => string {
  let last = ''
  let key = ''
  return (body) => {
    const text = JSON.stringify(body)
    if (text !== last) {
      last = text
      key = newKey()
    }
    return key
  }
}

/**
 * A form: whether it is being sent, what the server refused, and which field that was about. names maps the server's field
 * (body.price.amount) to the form's (price).
 */
export function useForm(names: Record<string, string> = {}) {
  const busy = ref(false)
  const problem = shallowRef<Problem>()
  const mine = reactive<Record<string, string>>({}) // found by the form itself
  let keyOf = keyring()

  const own = (f: Refused): string => names[f.field] ?? f.field.replace(/^body\./, '')
  function errorAt(field: string): string {
    if (mine[field]) return mine[field]
    const hit = problem.value?.fields.find((f) => own(f) === field || own(f).startsWith(field + '['))
    return hit ? refusal(hit) : ''
  }
  /** Runs send once at a time. Resolves to whether it went well. */
  async function submit(send: (key: (body: unknown) => string) => Promise<void>): Promise<boolean> {
    if (busy.value) return false
    problem.value = undefined
    if (Object.values(mine).some(Boolean)) return false
    busy.value = true
    try {
      await send(keyOf)
      keyOf = keyring()
      return true
    } catch (e) {
      problem.value = asProblem(e)
      return false
    } finally {
      busy.value = false
    }
  }
  const standing = new Set<string>()
  const shows = (f: Refused): boolean => standing.has(own(f)) || standing.has(own(f).replace(/\[.*$/, ''))
  provide(formKey, { errorAt, names: standing, shows })
  return { busy, problem, mine, errorAt, submit }
}
