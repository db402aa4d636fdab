"""Record a LangGraph agent with one line, and print what a world model would learn from.

A scripted chat model stands where an LLM would be, so this runs in seconds and needs no key; the
graph, the tool and the store are real.
"""

import sqlite3
import tempfile
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

import rwml
from rwml.testing import ScriptedChatModel, tool_calls

ORDERS = sqlite3.connect(":memory:", check_same_thread=False)
ORDERS.executescript(
    "create table orders(id text, status text);"
    "insert into orders values ('#W1', 'delivered'), ('#W2', 'pending');"
)


@tool
def order_status(order_id: str) -> str:
    """Look an order up in the shop's database."""
    row = ORDERS.execute("select status from orders where id = ?", (order_id,)).fetchone()
    return row[0] if row else f"Error: no order {order_id}"


def script(messages: list[BaseMessage]) -> AIMessage:
    """Looks the order up that the user names, then says what came back."""
    last = messages[-1]
    if isinstance(last, ToolMessage):
        return AIMessage(f"Your order: {last.text}")
    return tool_calls(("order_status", {"order_id": last.text.split()[-1]}))


def make_agent() -> Any:
    model = ScriptedChatModel(script=script).bind_tools([order_status])

    def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("agent", think)
    graph.add_node("tools", ToolNode([order_status]))
    graph.add_edge(START, "agent")
    graph.add_conditional_edges("agent", tools_condition, {"tools": "tools", END: END})
    graph.add_edge("tools", "agent")
    return graph.compile(checkpointer=InMemorySaver())


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'rwml.db'}"
        with rwml.instrument(store=url):  # the one line
            agent = make_agent()
            thread = {"configurable": {"thread_id": "customer-7"}}
            for order_id in ("#W1", "#W9"):
                agent.invoke({"messages": [("user", f"Where is order {order_id}")]}, thread)
        with rwml.open_store(url, create=False) as store:
            show(store)


def show(store: rwml.Store) -> None:
    for trajectory in store.trajectories():
        tools = ", ".join(tool.name for tool in trajectory.tools)
        print(f"trajectory {trajectory.id}: {len(trajectory.steps)} steps, tools: {tools}")
    for transition in store.transitions(history=5):
        action = transition.action
        calls = ", ".join(f"{call.name}({call.arguments_text})" for call in action.tool_calls)
        print(f"  action     {calls or action.content}")
        for message in transition.next_state:
            print(f"  next state [{message.role}] {message.content}")
    counts = store.counts()
    print(f"{counts.transitions} transitions; {counts.pending} step waits for the user's answer")


if __name__ == "__main__":
    main()
