// The lines of an import as the server counts them: a record of a CSV file may be several lines long.

export interface Line {
  /** Where it begins, from 1. */
  line: number
  text: string
}

/** Cuts a CSV file into its records, the header first. Quotes hold line ends together. */
export function csvRecords(file: string): Line[] {
  const records: Line[] = []
  const text = file.replace(/^\ufeff/, '')
  let line = 1
  let begins = 1
  let from = 0
  let quoted = false
  for (let i = 0; i <= text.length; i++) {
    const c = text[i]
    if (c === '"') quoted = !quoted // a doubled quote turns it twice
    const end = i === text.length
    if ((c === '\n' && !quoted) || end) {
      const record = text.slice(from, i).replace(/\r$/, '')
      if (record !== '') records.push({ line: begins, text: record })
      from = i + 1
      begins = line + 1
    }
    if (c === '\n') line++
  }
  return records
}

export const jsonlRecords = (file: string): Line[] =>
  file.replace(/^\ufeff/, '').split('\n').flatMap((text, i) => (text.trim() ? [{ line: i + 1, text: text.replace(/\r$/, '') }] : []))

/** The refused lines as a file of their own, which can be mended and imported again. */
export function refusedFile(file: string, format: 'csv' | 'jsonl', refused: ReadonlySet<number>): string {
  if (format === 'jsonl') return jsonlRecords(file).filter((r) => refused.has(r.line)).map((r) => r.text + '\n').join('')
  const [head, ...rest] = csvRecords(file)
  const bad = rest.filter((r) => refused.has(r.line)).map((r) => r.text)
  return [head?.text ?? '', ...bad].join('\r\n') + '\r\n'
}
