import { useCallback } from "react";
import { useOnce } from "../api/useOnce";
import { faultyRows, type Fault, type FaultyRow } from "./faultyRows";
import { rowsOf, type FileRows } from "./rows";

interface Props {
  name: string;
  faults: readonly Fault[];
  /** The file on this machine, whose rows are shown with what is wrong in them. */
  file: File | null;
}

/** The faults of one file, each at its cell. */
export function FileFaults({ name, faults, file }: Props) {
  const load = useCallback(async () => {
    const numbers = new Set(faultyRows(faults).map(({ number }) => number));
    return file ? rowsOf(file, numbers) : null;
  }, [faults, file]);
  const { data } = useOnce(load);
  const found = faultyRows(faults);
  const named = found.flatMap(({ faults: each }) => each.flatMap(({ column }) => column ?? []));
  const columns = data?.columns.length ? data.columns : [...new Set(named)];
  return (
    <>
      <h3>
        {name}: {found.length === 1 ? "one row has" : `${found.length} rows have`} faults
      </h3>
      <div className="scroll" tabIndex={0} role="region" aria-label={`Faults of ${name}`}>
        <table>
          <thead>
            <tr>
              <th scope="col">Row</th>
              {columns.map((column, index) => (
                <th scope="col" key={index}>
                  {column}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {found.map((row) => (
              <RowCells key={row.number} row={row} columns={columns} content={data} />
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}

interface CellsProps {
  row: FaultyRow;
  columns: readonly string[];
  content: FileRows | null;
}

function RowCells({ row, columns, content }: CellsProps) {
  const cells = content?.rows.get(row.number) ?? [];
  const whole = row.faults.filter(({ column }) => column == null || !columns.includes(column));
  // A row can have more cells than there are columns: that is then its fault.
  const places = Array.from({ length: Math.max(columns.length, cells.length) }, (_, index) => index);
  return (
    <tr>
      <td className={whole.length ? "fault" : ""}>
        {row.number}
        <Details faults={whole} />
      </td>
      {places.map((index) => {
        const own = row.faults.filter(({ column }) => column != null && column === columns[index]);
        return (
          <td key={index} className={own.length ? "fault" : ""}>
            {cells[index]}
            <Details faults={own} />
          </td>
        );
      })}
    </tr>
  );
}

function Details({ faults }: { faults: readonly Fault[] }) {
  return faults.map((fault, index) => (
    <small key={index}>
      {fault.detail}
      {(fault.count ?? 1) > 1 && ` (${fault.count ?? 1} rows)`}
    </small>
  ));
}
