// What is dangerous asks for a proof that it is still he who signed in. The call waits for it and is made once more.
import { shallowRef } from 'vue'
import { stepUpOf } from '@levee/shared'

/** By what he may prove it, while he is asked. */
export const asked = shallowRef<{ methods: string[]; settle: (well: boolean) => void }>()

/** Runs a call. Who gives no proof gets the refusal, and what he typed stays. */
export async function proven<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call()
  } catch (e) {
    const methods = stepUpOf(e)
    if (!methods || asked.value) throw e
    const well = await new Promise<boolean>((settle) => (asked.value = { methods, settle }))
    asked.value = undefined
    if (!well) throw e
    return call()
  }
}
