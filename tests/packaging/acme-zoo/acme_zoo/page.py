"""A tab of the page."""

import gradio as gr

TITLE, ORDER, REQUIRES, CSS = "Trend", 50, {}, ""


def _judge(numbers):
    values = [float(x) for x in numbers.split(",") if x.strip()]
    return "rising" if len(values) > 1 and values[-1] > values[0] else "falling"


def build(context):
    numbers = gr.Textbox("0.1, 0.2, 0.4", label="Numbers, by commas")
    answer = gr.Textbox(label="Trend")
    numbers.submit(_judge, numbers, answer, api_name="trend")
